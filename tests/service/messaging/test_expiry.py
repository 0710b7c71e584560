"""A connection lasts as long as its token."""

import asyncio

from angarium.errors import TokenExpired
from angarium.ids import DeviceId, UserId
from angarium.messaging.connection import Authenticated
from angarium.protocol.frames import Err, Msg, SyncEnd

from .relay import ANN, ANN1, BOB, BOB1, TALK, Relay, on_relay, send, settle


def test_a_connection_is_closed_when_its_token_expires_and_resumes_with_another() -> None:
    asked: list[Relay] = []

    def authenticate(token: str, device: DeviceId) -> Authenticated:
        (relay,) = asked
        lasts_ms = 30_000 if token == BOB else 0
        expires_ms = relay.clock.now_ms() + lasts_ms if lasts_ms else 0
        return Authenticated(UserId(token.removesuffix(" again")), expires_ms)

    async def scenario(relay: Relay) -> None:
        asked.append(relay)
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        await ann.say(send(1, BOB1))
        await asyncio.sleep(29)  # Virtual: nobody waits.
        assert bob.close_code is None
        await asyncio.sleep(2)
        await settle()
        assert [err.code for err in bob.of(Err)] == [TokenExpired.code]
        assert (bob.close_code, ann.close_code) == (4101, None)
        await ann.say(send(2, BOB1))
        again = await relay.connect(
            UserId(f"{BOB} again"), BOB1, cursors={TALK: (bob.of(Msg)[0].e, 1)}
        )
        assert len(again.of(SyncEnd)) == 1
        assert again.sequences() == [2]

    on_relay(scenario, authenticate=authenticate)
