"""What a send must fulfil, and what a client is told when it does not."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from angarium.bus.contract import DevicesChanged
from angarium.errors import RateLimited, Unavailable
from angarium.ids import UserId
from angarium.model.message import AppendResult, NewMessage
from angarium.protocol.frames import Err, Ok, Sealed, Send

from .relay import (
    ANN,
    ANN1,
    BOB,
    BOB1,
    BOB2,
    OTHER,
    TALK,
    Relay,
    key_of,
    on_relay,
    send,
    settle,
)

EVE = UserId("@eve:test")


def with_fields(**fields: Any) -> Send:
    parts: dict[str, Any] = {
        "id": 5,
        "c": TALK,
        "key": key_of(1),
        "cs": 1,
        "to": [Sealed(BOB1, b"sealed")],
    }
    return Send(**(parts | fields))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (with_fields(key="no uuid"), "malformed"),
        (with_fields(cs=0), "malformed"),
        (with_fields(kind="void"), "malformed"),
        (with_fields(kind=""), "malformed"),
        (with_fields(to=[Sealed(BOB1, b"")]), "malformed"),
        (with_fields(to=[Sealed(BOB1, b"a"), Sealed(BOB1, b"b")]), "malformed"),
        (with_fields(to=[Sealed(BOB1, b"x" * (64 * 1024 + 1))]), "too_large"),
        (with_fields(c=OTHER), "not_member"),
        (with_fields(to=[]), "stale_devices"),
        (with_fields(to=[Sealed(BOB1, b"a"), Sealed(ANN1, b"b")]), "stale_devices"),
        (with_fields(cs=3), "out_of_order"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_send_is_refused_by_name_and_the_connection_stays(
    wrong: Send, code: str
) -> None:
    async def scenario(relay: Relay) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        await ann.say(wrong)
        assert [(err.id, err.code) for err in ann.of(Err)] == [(5, code)]

        await ann.say(send(1, BOB1))
        assert [ok.s for ok in ann.of(Ok)] == [1]
        assert bob.sequences() == [1]

    on_relay(scenario)


def test_a_key_used_for_another_message_is_refused() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        await ann.say(send(1, BOB1), with_fields(to=[Sealed(BOB1, b"other")]))

        assert [(err.id, err.code) for err in ann.of(Err)] == [(5, "key_reused")]

    on_relay(scenario)


def test_out_of_order_says_where_to_go_on() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        await ann.say(send(1, BOB1), send(4, BOB1))

        (err,) = ann.of(Err)
        assert (err.code, err.expect_cs, err.retry) == ("out_of_order", 2, True)

    on_relay(scenario)


def test_a_stale_device_list_names_what_is_missing_and_what_is_too_much() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        await relay.enrol(BOB, BOB2)
        await ann.say(with_fields(to=[Sealed(BOB1, b"a"), Sealed("GHOST1", b"b")]))

        (err,) = ann.of(Err)
        assert (err.missing, err.extra, err.retry) == ([BOB2], ["GHOST1"], True)

    on_relay(scenario)


def test_a_fresh_list_is_taken_although_this_node_was_not_told_of_the_device() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        await ann.say(send(1, BOB1))
        await relay.enrol(BOB, BOB2)
        await asyncio.sleep(1)
        await ann.say(send(2, BOB1, BOB2))

        assert [ok.s for ok in ann.of(Ok)] == [1, 2]

    on_relay(scenario)


def test_a_changed_list_is_enforced_at_once_when_the_node_is_told() -> None:
    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        await ann.say(send(1, BOB1))
        await relay.enrol(BOB, BOB2)
        relay.bus.publish([DevicesChanged(BOB)])
        await settle()
        await ann.say(send(2, BOB1))

        assert [(err.code, err.missing) for err in ann.of(Err)] == [("stale_devices", [BOB2])]

    on_relay(scenario)


def test_nobody_sends_into_a_conversation_of_others() -> None:
    async def scenario(relay: Relay) -> None:
        await relay.enrol(EVE, "EVEONE")  # type: ignore[arg-type]
        eve, bob = await relay.connect(EVE, "EVEONE"), await relay.connect(BOB, BOB1)  # type: ignore[arg-type]
        await eve.say(send(1, ANN1, BOB1))

        assert [err.code for err in eve.of(Err)] == ["not_member"]
        assert bob.sequences() == []

    on_relay(scenario)


class HeldLog:
    """The log, but commits wait until `gate` is open, or fail with `error`."""

    def __init__(self) -> None:
        self.inner: Any = None
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.batches: list[int] = []

    async def append(self, batch: Sequence[NewMessage]) -> list[AppendResult]:
        self.batches.append(len(batch))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        result: list[AppendResult] = await self.inner.append(batch)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def on_held_log(scenario: Any) -> None:
    log = HeldLog()

    async def held(relay: Relay) -> None:
        log.inner = relay.store.log
        try:
            await scenario(relay, log)
        finally:
            log.gate.set()

    on_relay(held, log=log)


def test_what_arrives_during_a_commit_is_the_next_batch() -> None:
    async def scenario(relay: Relay, log: HeldLog) -> None:
        ann = await relay.connect(ANN, ANN1)
        await ann.say(send(1, BOB1))
        await ann.say(*[send(n, BOB1) for n in range(2, 9)])
        log.gate.set()
        await settle()

        assert log.batches == [1, 7]
        assert [ok.s for ok in ann.of(Ok)] == list(range(1, 9))

    on_held_log(scenario)


def test_too_many_sends_in_flight_are_busy_and_the_rest_goes_on() -> None:
    async def scenario(relay: Relay, log: HeldLog) -> None:
        ann = await relay.connect(ANN, ANN1)
        await ann.say(*[send(n, BOB1) for n in range(1, 11)])
        assert [(err.id, err.code, err.retry) for err in ann.of(Err)] == [
            (9, "busy", True),
            (10, "busy", True),
        ]

        log.gate.set()
        await settle()
        assert [ok.s for ok in ann.of(Ok)] == list(range(1, 9))

    on_held_log(scenario)


@pytest.mark.parametrize("error", [Unavailable("slow", 700), RuntimeError("a bug")])
def test_a_store_that_fails_is_told_as_unavailable_and_nothing_is_lost(
    error: Exception,
) -> None:
    async def scenario(relay: Relay, log: HeldLog) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        log.error = error
        log.gate.set()
        await ann.say(send(1, BOB1))
        assert [(err.code, err.retry) for err in ann.of(Err)] == [("unavailable", True)]

        log.error = None
        await ann.say(send(1, BOB1))
        assert bob.sequences() == [1]

    on_held_log(scenario)


def test_a_connection_that_ends_during_the_commit_does_not_disturb_the_others() -> None:
    async def scenario(relay: Relay, log: HeldLog) -> None:
        ann, bob = await relay.connect(ANN, ANN1), await relay.connect(BOB, BOB1)
        await ann.say(send(1, BOB1))
        ann.link.close()
        await settle()
        log.gate.set()
        await settle()

        assert bob.sequences() == [1]

    on_held_log(scenario)


def test_stopping_stores_what_was_taken() -> None:
    async def scenario(relay: Relay, log: HeldLog) -> None:
        ann = await relay.connect(ANN, ANN1)
        await ann.say(send(1, BOB1), send(2, BOB1))
        stopping = asyncio.create_task(relay.messaging.stop())
        await settle()
        log.gate.set()
        await stopping
        await settle()

        assert [ok.s for ok in ann.of(Ok)] == [1, 2]
        assert ann.close_code == 4001

    on_held_log(scenario)


def test_the_limiter_slows_sends_down_in_order_and_then_refuses() -> None:
    answers = [0.5, 0.0, 0.0]

    def limiter(user: UserId) -> float:
        if not answers:
            raise RateLimited("too fast", 1500)
        return answers.pop(0)

    async def scenario(relay: Relay) -> None:
        ann = await relay.connect(ANN, ANN1)
        await ann.say(*[send(n, BOB1) for n in range(1, 5)])
        assert ann.of(Ok) == []

        await asyncio.sleep(0.6)
        await settle()
        assert [ok.s for ok in ann.of(Ok)] == [1, 2, 3]
        assert [(err.id, err.code, err.after_ms) for err in ann.of(Err)] == [
            (4, "rate_limited", 1500)
        ]

    on_relay(scenario, limiter=limiter)


def test_a_resume_costs_two_queries_and_the_backlog() -> None:
    asked: list[str] = []

    class Counted:
        def __init__(self, inner: Any, name: str) -> None:
            self._inner, self._name = inner, name

        def __getattr__(self, name: str) -> Any:
            asked.append(f"{self._name}.{name}")
            return getattr(self._inner, name)

    async def scenario(relay: Relay) -> None:
        await relay.node(
            node_id="counted",
            engine=(engine := type(relay.engine)()),
            log=Counted(relay.store.log, "log"),
            conversations=Counted(relay.store.conversations, "conversations"),
            directory=Counted(relay.store.directory, "directory"),
        )
        relay.engine = engine
        await relay.connect(BOB, BOB1, cursors={})
        assert sorted(asked) == ["conversations.lists_of", "directory.lists", "log.heads"]

        # Once more within the age of a device list: two.
        asked.clear()
        await relay.connect(BOB, BOB1, cursors={})
        assert sorted(asked) == ["conversations.lists_of", "log.heads"]

    on_relay(scenario)
