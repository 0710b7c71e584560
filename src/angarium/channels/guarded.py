"""A channel behind a breaker: while the provider fails, it is left alone."""

from collections.abc import Collection, Sequence

from angarium.channels.contract import (
    Channel,
    ChannelEvent,
    NotSent,
    Outgoing,
    Sent,
    WebhookRequest,
)
from angarium.errors import Unavailable
from angarium.resilience import Breaker, retry


class _Failing(Unavailable):
    """A send that shows the provider failing, on its way through the breaker."""

    def __init__(self, outcome: NotSent) -> None:
        super().__init__(outcome.sentence)
        self.outcome = outcome


class GuardedChannel:
    """The same channel, with `breaker` before its outward calls.

    Sends are not retried here: only the outbox knows whether that is safe. Look-ups are.
    """

    def __init__(self, channel: Channel, breaker: Breaker) -> None:
        self._channel, self._breaker = channel, breaker
        self.name, self.text_chars_max = channel.name, channel.text_chars_max

    def verify(self, request: WebhookRequest) -> None:
        self._channel.verify(request)

    def event_id(self, request: WebhookRequest) -> str:
        return self._channel.event_id(request)

    def parse(self, url: str, body: bytes) -> Sequence[ChannelEvent]:
        return self._channel.parse(url, body)

    async def send(self, outgoing: Outgoing) -> Sent | NotSent:
        async def attempt() -> Sent | NotSent:
            outcome = await self._channel.send(outgoing)
            if isinstance(outcome, NotSent) and (
                outcome.verdict == "unknown" or not outcome.reached
            ):
                raise _Failing(outcome)
            return outcome

        try:
            return await self._breaker.call(attempt)
        except _Failing as failing:
            return failing.outcome
        except Unavailable as error:
            return NotSent("retry", "breaker_open", str(error), error.after_ms, reached=False)

    async def find_sent(
        self, outgoing: Outgoing, since_ms: int, exclude: Collection[str] = ()
    ) -> Sent | None:
        return await self._breaker.call(
            lambda: retry(
                lambda: self._channel.find_sent(outgoing, since_ms, exclude), attempts_max=2
            )
        )

    async def show_typing(self, message_id: str) -> None:
        if not self._breaker.is_open:
            await self._channel.show_typing(message_id)
