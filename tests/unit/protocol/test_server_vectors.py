"""Recorded vectors of the server's half of `angarium.1`, for this implementation and any other.

`server.json`: what a node answers when a client says this, the store says that, and time goes
by. `RECORD=1` in the environment writes it anew; a change in its diff is a change of the
protocol.
"""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from angarium.errors import every_error
from angarium.model.conversation import Head
from angarium.model.message import Accepted
from angarium.protocol import frames as f
from angarium.protocol.codec import JsonCodec
from angarium.protocol.outflow import refusal
from angarium.protocol.server_effects import Append, Effect, Fetch, Greet, Hangup, Relay, Write
from angarium.protocol.server_side import ServerSide

FILE = Path(__file__).parents[2] / "fixtures" / "protocol" / "server.json"
C = "019a1b2c-0000-7000-8000-000000000001"
KEYS = [f"019a1b2c-0000-7000-8000-0000000000a{n}" for n in range(10)]
Step = dict[str, Any]


def hello(**fields: Any) -> f.Hello:
    return f.Hello(**({"v": 1, "dev": "DEVICEONE", "tok": "token", "app": "app/1"} | fields))


def client(at_s: float, *frames: f.AnyFrame) -> Step:
    return {"at_s": at_s, "do": "client", "frames": plain(frames)}


def welcome(at_s: float, *standing: tuple[str, int, int, int]) -> Step:
    return {"at_s": at_s, "do": "welcome", "standing": [list(each) for each in standing]}


def send(n: int) -> f.Send:
    return f.Send(n, C, KEYS[n], n, [f.Sealed("DEVICETWO", b"\x01\x00\xfb\xff")])


def plain(frames: Any) -> list[Any]:
    return [json.loads(JsonCodec().encode([frame])) for frame in frames]


LIVE = [client(0.1, hello()), welcome(0.2, (C, 1, 0, 1))]
TRANSCRIPTS: dict[str, list[Step]] = {
    "a first connection has nothing to catch up": LIVE,
    "a backlog is delivered before the sync ends": [
        client(0.1, hello(resume=f.Resume({C: (1, 2)}, "sid-0"))),
        welcome(0.2, (C, 1, 4, 1)),
        {"at_s": 0.3, "do": "push", "c": C, "epoch": 1, "sequence": 3},
        {"at_s": 0.3, "do": "push", "c": C, "epoch": 1, "sequence": 4},
        {"at_s": 0.3, "do": "pumped"},
        client(0.4, f.Ack([(C, 4)])),
    ],
    "a cursor of another epoch is void": [
        client(0.1, hello(resume=f.Resume({C: (1, 9)}))),
        welcome(0.2, (C, 2, 1, 1)),
    ],
    "credit ends delivery and an acknowledgement reopens it": [
        client(0.1, hello(resume=f.Resume({C: (1, 0)}), win=(1, 0))),
        welcome(0.2, (C, 1, 3, 1)),
        {"at_s": 0.3, "do": "push", "c": C, "epoch": 1, "sequence": 1},
        {"at_s": 0.3, "do": "push", "c": C, "epoch": 1, "sequence": 2},
        client(0.4, f.Ack([(C, 1)])),
        {"at_s": 0.5, "do": "push", "c": C, "epoch": 1, "sequence": 2},
    ],
    "a send is stored, repeated, refused": [
        *LIVE,
        client(1.0, send(1), send(3)),
        {"at_s": 1.1, "do": "accepted", "send": 1, "epoch": 1, "sequence": 1, "dup": False},
        {"at_s": 1.1, "do": "rejected", "send": 3, "code": "out_of_order", "expect_cs": 2},
        client(1.2, send(1)),
        {"at_s": 1.3, "do": "accepted", "send": 1, "epoch": 1, "sequence": 1, "dup": True},
    ],
    "more sends in flight than allowed are told to wait": [
        *LIVE,
        client(1.0, *[send(n) for n in range(1, 10)]),
    ],
    "a send that breaks a rule is refused by itself": [
        *LIVE,
        client(1.0, f.Send(1, C, "no uuid", 1, []), f.Send(2, C, KEYS[2], 0, []), send(1)),
    ],
    "after bye the answers still go out": [
        *LIVE,
        client(1.0, send(1), f.Bye()),
        {"at_s": 1.1, "do": "accepted", "send": 1, "epoch": 1, "sequence": 1, "dup": False},
    ],
    "ranges, events and parts are passed on, nonsense is not": [
        *LIVE,
        {"at_s": 0.9, "do": "notice", "c": C, "epoch": 1, "sequence": 7},
        client(1.0, f.Get(4, C, 2, 5), f.Get(5, C, 5, 2)),
        client(1.1, f.Evt(C, "read", s=99), f.Evt(C, "presence"), f.Evt("other", "typing")),
        client(1.2, f.Part(C, KEYS[1], 0, ct=b"\xff"), f.Part(C, KEYS[1], -1, ct=b"\xff")),
    ],
    "another history makes the client resume": [
        *LIVE,
        {"at_s": 1.0, "do": "notice", "c": C, "epoch": 2, "sequence": 1},
    ],
    "hello comes first and once": [client(0.1, f.Ack([]))],
    "a second hello ends the connection": [*LIVE, client(1.0, hello())],
    "another version is refused": [client(0.1, hello(v=2))],
    "no hello in time": [{"at_s": 9.9, "do": "tick"}, {"at_s": 10.1, "do": "tick"}],
    "silence is pinged and then ended": [
        *LIVE,
        {"at_s": 25.3, "do": "tick"},
        client(26.0, f.Pong(1)),
        {"at_s": 50.4, "do": "tick"},
        {"at_s": 61.1, "do": "tick"},
    ],
    "a drain asks the client to move on, once": [
        *LIVE,
        {"at_s": 1.0, "do": "go_away", "spread_s": 2.5, "deadline_s": 45.0},
        {"at_s": 1.1, "do": "go_away", "spread_s": 2.5, "deadline_s": 45.0},
        client(2.0, f.Bye()),
    ],
}


def answered(server: ServerSide, effects: list[Effect]) -> list[Any]:
    """What goes over the wire, what the store is asked for, and what is to be delivered."""
    seen: list[Any] = []
    for effect in effects:
        match effect:
            case Write():
                seen.append({"send": plain([effect.frame])[0]})
            case Hangup():
                seen.append({"close": effect.code, "reason": effect.reason})
            case Append():
                seen.append({"append": [effect.send.c, effect.send.key, effect.send.cs]})
            case Greet():
                seen.append({"greet": effect.hello.dev})
            case Fetch():
                seen.append({"fetch": [effect.get.c, effect.get.first, effect.get.last]})
            case Relay():
                seen.append({"relay": plain([effect.frame])[0]})
            case _:
                wanted = server.backlog.wanted()
                seen.append({"deliver": list(wanted) if wanted else None})
    return seen


def carry_out(server: ServerSide, sends: dict[int, f.Send], step: Step) -> list[Effect]:
    match step["do"]:
        case "client":
            frames = JsonCodec().decode_client(msgspec.json.encode(step["frames"]))
            sends.update({each.id: each for each in frames if isinstance(each, f.Send)})
            return server.receive(frames, step["at_s"])
        case "welcome":
            standing = [(c, Head(*numbers)) for c, *numbers in step["standing"]]
            return server.welcome(standing, sid="sid-1", node="node-1", now_ms=1790000000000)
        case "accepted":
            result = Accepted(step["epoch"], step["sequence"], 1790000000001, step["dup"])
            return server.accepted(sends[step["send"]], result)
        case "rejected":
            assert step["code"] in every_error()
            told = f.Err(0, step["code"], expect_cs=step.get("expect_cs", 0))
            return server.rejected(sends[step["send"]], refusal(told))
        case "notice":
            return server.notice(step["c"], Head(step["epoch"], step["sequence"]))
        case "pumped":
            return server.pumped()
        case "go_away":
            return server.go_away(step["spread_s"], step["deadline_s"])
        case "tick":
            return server.tick(step["at_s"])
    raise AssertionError(step["do"])


def play(steps: list[Step]) -> list[Step]:
    server, sends, answers = ServerSide(0.0), dict[int, f.Send](), list[Step]()
    for step in steps:
        if step["do"] == "push":
            goes = server.backlog.push(step["c"], step["epoch"], step["sequence"], 100)
            answers.append({**step, "goes": goes, "unacked": list(server.backlog.unacked)})
            continue
        effects = carry_out(server, sends, step)
        answers.append({**step, "server": answered(server, effects)})
    return answers


def every_transcript() -> dict[str, list[Step]]:
    return {name: play(steps) for name, steps in TRANSCRIPTS.items()}


if os.environ.get("RECORD"):
    FILE.write_text(json.dumps(every_transcript(), indent=1) + "\n")

RECORDED = json.loads(FILE.read_text())


def test_every_transcript_is_recorded() -> None:
    assert set(RECORDED) == set(TRANSCRIPTS)


@pytest.mark.parametrize("name", RECORDED)
def test_the_server_answers_as_recorded(name: str) -> None:
    steps = [
        {k: v for k, v in step.items() if k not in ("server", "goes", "unacked")}
        for step in RECORDED[name]
    ]
    assert steps == TRANSCRIPTS[name]
    assert play(steps) == RECORDED[name]
