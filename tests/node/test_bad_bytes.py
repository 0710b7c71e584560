"""Damaged frames of a device that may connect, and bytes that are no WebSocket at all."""

import asyncio
import contextlib
import random
from urllib.parse import urlsplit

import pytest

from angarium.protocol.codec import MsgpackCodec
from angarium.protocol.frames import Ack, Evt, Get, Part, Ping, Sealed, Send
from angarium.testing.process import ServedNode

from .nodes import Pair, Run, Talker, get, pair

pytestmark = [pytest.mark.process, pytest.mark.slow]

DAMAGED = 400
STRANGE = [
    b"",
    b"\r\n\r\n",
    b"GET /ws HTTP/1.1\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n",
    bytes(range(256)) * 64,
]


def damaged(chance: random.Random, whole: bytes) -> bytes:
    """`whole` with a few bytes changed, cut out, doubled or put in."""
    content = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content))
        match chance.randrange(4):
            case 0:
                content[at] = chance.randrange(256)
            case 1:
                del content[at : at + chance.randint(1, 8)]
            case 2:
                content[at:at] = content[at : at + chance.randint(1, 8)]
            case _:
                content[at:at] = chance.randbytes(chance.randint(1, 8))
        if not content:
            return b"\xc1"
    return bytes(content)


def sound_frames(people: Pair) -> list[bytes]:
    c, to = people.c, [Sealed(people.bob.device.device, b"x" * 40)]
    pack = MsgpackCodec().encode
    return [
        pack([Send(1, c, "0192f5d8-6b7e-7c3a-9d2e-1f2a3b4c5d6e", 1, to)]),
        pack([Ack([(c, 1)]), Ping(7)]),
        pack([Get(2, c, 1, 5)]),
        pack([Evt(c, "typing", ttl=5000), Evt(c, "read", s=1)]),
        pack([Part(c, "0192f5d8-6b7e-7c3a-9d2e-1f2a3b4c5d6e", 3, to)]),
    ]


def test_damaged_frames_end_their_connection_at_most(node: ServedNode, run: Run) -> None:
    async def scenario() -> None:
        chance = random.Random(20261124)
        bystanders, people = await pair(node, "bystander"), await pair(node, "damaged")
        sound = sound_frames(people)
        codes: set[int] = set()
        for _ in range(DAMAGED):
            talker = people.ada
            talker.client.send_bytes(damaged(chance, chance.choice(sound)))
            talker.client.send([Ping(99)])
            if not await talker.end_or_pong(99):
                codes.add(talker.client.close_code)
                people.ada = await Talker.join(node, people.ada.device)
        assert codes == {4400}
        await bystanders.assert_alive()
        log = await people.stored()
        assert [s for s, _, _ in log] == list(range(1, len(log) + 1))
        await bystanders.leave()
        await people.leave()

    run(scenario())


@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_what_is_no_websocket_is_turned_away(node: ServedNode, run: Run, number: int) -> None:
    async def scenario() -> None:
        people = await pair(node, "strange")
        for url in (node.websocket_url, node.http_url):
            place = urlsplit(url)
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            try:
                writer.write(STRANGE[number])
                with contextlib.suppress(OSError):  # It may have hung up by now.
                    writer.write_eof()
                async with asyncio.timeout(20):
                    answer = await reader.read()
                assert not answer or answer.startswith(b"HTTP/1.1 4")
            except ConnectionResetError:
                pass  # Turned away before all of it was read.
            finally:
                writer.close()
        assert (await get(node, "/readyz")).status_code == 200
        await people.assert_alive()
        await people.leave()

    run(scenario())
