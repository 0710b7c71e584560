"""Recorded vectors of `angarium.1`, for this implementation and any other.

`frames.json`: each frame in both encodings. `client.json`: what a client sends when a server
says this at that time. `RECORD=1` in the environment writes them anew; a change in a diff of
these files is a change of the protocol.
"""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from angarium.protocol import frames as f
from angarium.protocol.client_side import ClientMachine
from angarium.protocol.codec import JsonCodec, MsgpackCodec, UnknownFrame
from angarium.protocol.effects import CloseLink, Deliver, Effect, OpenLink, Transmit
from angarium.protocol.outflow import Outgoing

FOLDER = Path(__file__).parents[2] / "fixtures" / "protocol"
C = "019a1b2c-0000-7000-8000-000000000001"
KEY = "019a1b2c-0000-7000-8000-0000000000aa"
LIMITS = f.Limits(262144, 65536, 64, 32, 8)

CLIENT_FRAMES: dict[str, f.AnyFrame] = {
    "hello": f.Hello(1, "DEVICEONE", "token", "app/1", ["presence"], win=(256, 1048576)),
    "hello that resumes": f.Hello(
        1, "DEVICEONE", "token", resume=f.Resume({C: (1, 42)}, "sid-1"), win=(256, 1048576)
    ),
    "send": f.Send(7, C, KEY, 3, [f.Sealed("DEVICETWO", b"\x01\x00\xfb\xff\xfe")]),
    "ack": f.Ack([(C, 43)]),
    "get": f.Get(8, C, 44, 50),
    "typing": f.Evt(C, "typing", ttl=6000),
    "typing ended": f.Evt(C, "typing", ttl=6000, on=False),
    "read": f.Evt(C, "read", s=43),
    "part for all": f.Part(C, KEY, 0, ct=b"\xff\xfe\xfd"),
    "bye": f.Bye(),
    "pong": f.Pong(3),
}
SERVER_FRAMES: dict[str, f.AnyFrame] = {
    "welcome": f.Welcome("sid-1", "node-1", 25.0, (256, 1048576), LIMITS, 1790000000000),
    "welcome without resume": f.Welcome(
        "sid-2", "node-1", 25.0, (256, 1048576), LIMITS, 1790000000000, False, "epoch_changed"
    ),
    "ok": f.Ok(7, C, 44, 1, 1790000000001),
    "ok again": f.Ok(7, C, 44, 1, 1790000000001, True),
    "out of order": f.Err(7, "out_of_order", retry=True, expect_cs=2),
    "stale devices": f.Err(
        7, "stale_devices", retry=True, missing=["NEWDEVICE"], extra=["OLD001"]
    ),
    "busy": f.Err(7, "busy", "try again later", True, 250),
    "msg": f.Msg(
        C, 1, 45, KEY, "@ann:angarium", "DEVICETWO", 1790000000002, ct=b"\x01\x01\xff"
    ),
    "msg of this device": f.Msg(C, 1, 44, KEY, "@bob:angarium", "DEVICEONE", 1790000000001),
    "msg purged": f.Msg(C, 1, 2, KEY, "@ann:angarium", "DEVICETWO", 1789999999999, "void"),
    "range": f.Range(
        8,
        C,
        1,
        44,
        44,
        [f.Msg(C, 1, 44, KEY, "@ann:angarium", "DEVICETWO", 1, ct=b"\x00")],
        True,
    ),
    "head": f.Heads([(C, 1, 45)]),
    "sync_end": f.SyncEnd(12),
    "goaway": f.Goaway("drain", 30000, 45000),
    "ping": f.Ping(3),
    "evt of a user": f.Evt(C, "read", s=43, sender="@ann:angarium", dev="DEVICETWO"),
    "part of a device": f.Part(
        C, KEY, 1, ct=b"\xff\xfe", sender="@ann:angarium", dev="DEVICETWO"
    ),
}
MESSAGES = [
    f.Msg(C, 1, s, f"key-{s}", "@ann:angarium", "DEVICETWO", 1790000000000 + s, ct=b"%d" % s)
    for s in range(1, 6)
]
WELCOMED: list[dict[str, Any]] = [
    {"at_s": 0.0, "do": "start"},
    {"at_s": 0.1, "do": "opened", "link": 1},
    {
        "at_s": 0.2,
        "do": "server",
        "link": 1,
        "frames": [SERVER_FRAMES["welcome"], f.SyncEnd(0)],
    },
]
TRANSCRIPTS: dict[str, list[dict[str, Any]]] = {
    "a hole is asked for and filled": [
        *WELCOMED,
        {"at_s": 1.0, "do": "server", "link": 1, "frames": [MESSAGES[0], MESSAGES[3]]},
        {"at_s": 1.1, "do": "server", "link": 1, "frames": [MESSAGES[3]]},
        {
            "at_s": 1.2,
            "do": "server",
            "link": 1,
            "frames": [f.Range(1, C, 1, 2, 3, MESSAGES[1:3])],
        },
        {"at_s": 1.3, "do": "committed", "c": C, "sequence": 4, "messages": 4},
        {"at_s": 1.6, "do": "tick"},
    ],
    "a send is sent again after a lost connection": [
        *WELCOMED,
        {"at_s": 1.0, "do": "submit", "c": C, "key": KEY, "cs": 1},
        {"at_s": 2.0, "do": "closed", "link": 1, "code": 1006},
        {"at_s": 3.0, "do": "tick"},
        {"at_s": 3.1, "do": "opened", "link": 2},
        {
            "at_s": 3.2,
            "do": "server",
            "link": 2,
            "frames": [SERVER_FRAMES["welcome"], f.SyncEnd(0)],
        },
        {"at_s": 3.3, "do": "server", "link": 2, "frames": [f.Ok(2, C, 1, 1, 5, True)]},
    ],
    "a drain moves to a second connection": [
        *WELCOMED,
        {"at_s": 1.0, "do": "server", "link": 1, "frames": [f.Goaway("drain", 2000, 45000)]},
        {"at_s": 2.0, "do": "tick"},
        {"at_s": 2.1, "do": "opened", "link": 2},
        {"at_s": 2.2, "do": "server", "link": 2, "frames": [SERVER_FRAMES["welcome"]]},
    ],
    "a refusal that names a time is obeyed": [
        *WELCOMED,
        {"at_s": 1.0, "do": "submit", "c": C, "key": KEY, "cs": 1},
        {
            "at_s": 1.1,
            "do": "server",
            "link": 1,
            "frames": [f.Err(1, "rate_limited", retry=True, after_ms=2000)],
        },
        {"at_s": 3.0, "do": "tick"},
        {"at_s": 3.2, "do": "tick"},
    ],
}


def vector(name: str, side: str, frame: f.AnyFrame) -> dict[str, Any]:
    return {
        "name": name,
        "from": side,
        "json": JsonCodec().encode([frame]).decode(),
        "msgpack": MsgpackCodec().encode([frame]).hex(),
    }


def every_vector() -> list[dict[str, Any]]:
    return [vector(name, "client", frame) for name, frame in CLIENT_FRAMES.items()] + [
        vector(name, "server", frame) for name, frame in SERVER_FRAMES.items()
    ]


def plain(frames: Any) -> list[Any]:
    """Frames as they stand in the JSON encoding."""
    return [json.loads(JsonCodec().encode([frame])) for frame in frames]


def answered(effects: list[Effect]) -> list[dict[str, Any]]:
    """What an observer on the wire and above the client sees of these effects."""
    seen: list[dict[str, Any]] = []
    for effect in effects:
        if isinstance(effect, Transmit):
            seen.append({"send": plain(effect.frames), "link": effect.link})
        elif isinstance(effect, OpenLink):
            seen.append({"open": effect.link})
        elif isinstance(effect, CloseLink):
            seen.append({"close": effect.link, "code": effect.code})
        elif isinstance(effect, Deliver):
            seen.append({"deliver": [[m.c, m.s] for m in effect.messages]})
        else:
            name = type(effect).__name__
            fields = {"stored": name == "Stored"} if name == "Stored" else {"effect": name}
            seen.append(fields)
    return seen


def play(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The client's answer to each recorded step."""
    client = ClientMachine(device="DEVICEONE", random=lambda: 0.5, cursors={C: (1, 0)})
    answers = []
    for step in steps:
        now_s, effects = step["at_s"], list[Effect]()
        match step["do"]:
            case "start":
                effects = client.start(now_s)
            case "opened":
                effects = client.opened(step["link"], "token", now_s)
            case "server":
                payload = msgspec.json.encode(step["frames"])
                effects = client.received(
                    step["link"], JsonCodec().decode_server(payload), now_s
                )
            case "submit":
                to = (f.Sealed("DEVICETWO", b"sealed"),)
                effects = client.submit(Outgoing(step["c"], step["key"], step["cs"], to), now_s)
            case "committed":
                effects = client.committed(step["c"], step["sequence"], step["messages"], now_s)
            case "closed":
                effects = client.closed(step["link"], step["code"], "", now_s)
            case "tick":
                effects = client.tick(now_s)
        answers.append({**step, "client": answered(effects)})
    return answers


def every_transcript() -> dict[str, list[dict[str, Any]]]:
    return {
        name: play([{**s, "frames": plain(s["frames"])} if "frames" in s else s for s in steps])
        for name, steps in TRANSCRIPTS.items()
    }


if os.environ.get("RECORD"):
    (FOLDER / "frames.json").write_text(json.dumps(every_vector(), indent=1) + "\n")
    (FOLDER / "client.json").write_text(json.dumps(every_transcript(), indent=1) + "\n")

RECORDED = json.loads((FOLDER / "frames.json").read_text())
RECORDED_CLIENT = json.loads((FOLDER / "client.json").read_text())


def test_every_frame_type_is_recorded() -> None:
    recorded = {json.loads(entry["json"])["t"] for entry in RECORDED}
    known = {
        member.__struct_config__.tag
        for union in (f.ClientFrame, f.ServerFrame)
        for member in union.__args__
    }
    assert recorded == known


def test_frames_are_encoded_as_recorded() -> None:
    assert every_vector() == RECORDED


@pytest.mark.parametrize(
    "entry", RECORDED, ids=lambda entry: f"{entry['from']} {entry['name']}"
)
def test_both_encodings_of_a_frame_mean_the_same(entry: dict[str, Any]) -> None:
    frame = {**CLIENT_FRAMES, **SERVER_FRAMES}[entry["name"]]
    for codec, payload in (
        (MsgpackCodec(), bytes.fromhex(entry["msgpack"])),
        (JsonCodec(), entry["json"].encode()),
    ):
        decode = codec.decode_client if entry["from"] == "client" else codec.decode_server
        assert decode(payload) == [frame]


@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec()], ids=["msgpack", "json"])
def test_unknown_fields_and_frames_are_passed_over(codec: Any) -> None:
    encode = msgspec.msgpack.encode if codec.binary else msgspec.json.encode
    later = encode([{"t": "ping", "n": 1, "later": 2}, {"t": "new"}, {"t": "new", "id": 9}])
    assert codec.decode_server(later) == [f.Ping(1), UnknownFrame(9, "new")]


@pytest.mark.parametrize("name", RECORDED_CLIENT)
def test_the_client_answers_as_recorded(name: str) -> None:
    steps = RECORDED_CLIENT[name]
    assert play([{k: v for k, v in s.items() if k != "client"} for s in steps]) == steps
    assert set(RECORDED_CLIENT) == set(TRANSCRIPTS)
