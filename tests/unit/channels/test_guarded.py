"""A provider that fails is left alone, and nothing is thought sent or lost by that."""

import asyncio
from collections.abc import Collection

import pytest

from angarium.channels.contract import Address, NotSent, Outgoing, Sent
from angarium.channels.guarded import GuardedChannel
from angarium.channels.twilio import Twilio
from angarium.clock import ManualClock
from angarium.errors import Unavailable
from angarium.resilience import BREAKER_CALLS_MIN, BREAKER_OPEN_S, Breaker

OUTGOING = Outgoing("d1", Address("+15550001234"), "whatsapp:+15550006060", "hi")


class Provider(Twilio):
    """Twilio's adapter with its answers given."""

    def __init__(self, outcome: Sent | NotSent) -> None:
        self.outcome, self.asked = outcome, 0

    async def send(self, outgoing: Outgoing) -> Sent | NotSent:
        self.asked += 1
        return self.outcome

    async def find_sent(
        self, outgoing: Outgoing, since_ms: int, exclude: Collection[str] = ()
    ) -> Sent | None:
        self.asked += 1
        raise Unavailable("away", after_ms=60_000)


@pytest.mark.parametrize(
    "failure",
    [NotSent("unknown", "http_500", "failed"), NotSent("retry", "x", "no way", reached=False)],
)
def test_failures_open_it_and_one_success_closes_it(failure: NotSent) -> None:
    async def scenario() -> None:
        clock, provider = ManualClock(), Provider(failure)
        channel = GuardedChannel(provider, Breaker("twilio", clock))
        for _ in range(BREAKER_CALLS_MIN):
            assert await channel.send(OUTGOING) == failure
        refused = await channel.send(OUTGOING)
        assert provider.asked == BREAKER_CALLS_MIN
        assert isinstance(refused, NotSent)
        assert (refused.verdict, refused.code, refused.reached) == (
            "retry", "breaker_open", False,
        )  # fmt: skip
        clock.advance(BREAKER_OPEN_S + 1)
        provider.outcome = Sent("SM1", "queued")
        assert await channel.send(OUTGOING) == provider.outcome
        assert await channel.send(OUTGOING) == provider.outcome

    asyncio.run(scenario())


def test_a_refusal_shows_that_the_provider_works() -> None:
    async def scenario() -> None:
        provider = Provider(NotSent("never", "21211", "refused"))
        channel = GuardedChannel(provider, Breaker("twilio", ManualClock()))
        for _ in range(BREAKER_CALLS_MIN * 3):
            assert await channel.send(OUTGOING) == provider.outcome

    asyncio.run(scenario())


def test_a_look_up_that_fails_is_unavailable() -> None:
    async def scenario() -> None:
        provider = Provider(Sent("SM1", "queued"))
        channel = GuardedChannel(provider, Breaker("twilio", ManualClock()))
        with pytest.raises(Unavailable):
            await channel.find_sent(OUTGOING, 0)
        assert provider.asked == 1, "it asked for a longer wait than may be waited here"

    asyncio.run(scenario())
