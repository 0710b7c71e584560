"""Heads on MongoDB: noted before an answer, marked later, never missed in between."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="the MongoDB adapter needs pymongo")

from angarium.clock import ManualClock
from angarium.limits import MONGO_MARKS_EVERY_S
from angarium.model.conversation import Participant
from angarium.storage.mongo.marks import fold_journals

from .test_store_log import CONVERSATION, OTHER, message, sequences

Fresh = Callable[..., Awaitable[Any]]


@pytest.fixture
def with_mongo(mongo_uri: str, fresh_mongo: Fresh) -> Callable[..., None]:
    """Runs a scenario over two nodes' stores with two conversations; no marks by themselves."""

    async def run(scenario: Any) -> None:
        one = await fresh_mongo(mongo_uri, ManualClock())
        other = await one.second()
        for store in (one, other):
            store._marks._every_s = 1e6
        try:
            for name in (CONVERSATION, OTHER):
                people = [Participant("@anna:angarium", "person")]  # type: ignore[arg-type]
                await one.store.conversations.create(name, people, 0)
            await scenario(one, other)
        finally:
            await other.close()
            await one.close()

    return lambda scenario: asyncio.run(run(scenario))


async def marked(opened: Any, name: str = CONVERSATION) -> int:
    return int((await opened._link.find("conversations", {"_id": name}))["head"])


async def head(opened: Any, name: str = CONVERSATION) -> int:
    return int((await opened.store.log.heads([name]))[name].sequence)


async def journals(opened: Any) -> int:
    return len(await opened._link.list("journals", {}))


async def until_raised(opened: Any) -> None:
    async with asyncio.timeout(10):
        while await journals(opened):  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.01)


def test_a_head_is_found_by_all_before_it_is_marked(with_mongo: Any) -> None:
    async def scenario(one: Any, other: Any) -> None:
        await one.store.log.append([message(1), message(2)])
        assert (await head(one), await head(other), await marked(one)) == (2, 2, 0)
        await other.store.log.append([message(3)])
        assert (await head(one), await journals(one)) == (3, 2)

        await one._marks._raise_marks()
        assert (await head(other), await marked(other), await journals(one)) == (3, 2, 1)

    with_mongo(scenario)


def test_a_head_that_is_marked_while_it_is_asked_for_is_not_missed(with_mongo: Any) -> None:
    async def scenario(one: Any, other: Any) -> None:
        await one.store.log.append([message(1)])
        asked: list[str] = []
        ask = other._link.list

        async def slowly(name: str, *rest: Any, **named: Any) -> Any:
            if asked:
                await one._marks._raise_marks()
            asked.append(name)
            return await ask(name, *rest, **named)

        other._heads._link.list = slowly
        assert await head(other) == 1
        assert len(asked) == 2
        assert await journals(one) == 0  # It did happen in between.

    with_mongo(scenario)


def test_what_is_noted_while_marks_are_raised_stays_noted(with_mongo: Any) -> None:
    async def scenario(one: Any, other: Any) -> None:
        await one.store.log.append([message(1)])
        raising = asyncio.create_task(one._marks._raise_marks())
        appended = await one.store.log.append([message(2), message(1, conversation=OTHER)])
        await raising
        assert sequences(appended) == [2, 1]
        assert [await head(other), await head(other, OTHER)] == [2, 1]
        await one._marks._raise_marks()
        assert [await marked(one), await marked(one, OTHER), await journals(one)] == [2, 1, 0]

    with_mongo(scenario)


def test_a_dead_nodes_journal_counts_and_is_folded_a_living_nodes_goes_on(
    with_mongo: Any,
) -> None:
    async def scenario(one: Any, other: Any) -> None:
        await one.store.log.append([message(1)])
        await other.store.log.append([message(1, conversation=OTHER)])
        await fold_journals(one._link)
        assert [await marked(one), await marked(one, OTHER), await journals(one)] == [1, 1, 0]

        await one.store.log.append([message(2)])
        assert [await head(other), await marked(other)] == [2, 1]

    with_mongo(scenario)


def test_a_full_journal_marks_at_once(with_mongo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("angarium.storage.mongo.marks.MONGO_JOURNAL_MAX", 1)

    async def scenario(one: Any, other: Any) -> None:
        await one.store.log.append([message(1)])
        await one.store.log.append([message(1, conversation=OTHER)])
        assert [await marked(one), await marked(one, OTHER)] == [0, 1]
        assert [await head(other), await head(other, OTHER)] == [1, 1]

    with_mongo(scenario)


def test_marks_are_raised_by_themselves_and_when_a_store_is_closed(with_mongo: Any) -> None:
    async def scenario(one: Any, other: Any) -> None:
        one._marks._every_s = 0.01
        await one.store.log.append([message(1)])
        await until_raised(one)
        assert await marked(one) == 1
        await one.store.log.append([message(2)])  # The next one is raised, too.
        await until_raised(one)
        assert await marked(one) == 2

        await other.store.log.append([message(1, conversation=OTHER)])
        await other.close()
        assert [await marked(one, OTHER), await journals(one)] == [1, 0]

    with_mongo(scenario)
    assert MONGO_MARKS_EVERY_S <= 5


def test_an_error_of_no_known_kind_does_not_end_the_raising(
    with_mongo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(one: Any, other: Any) -> None:
        marks, fail = one._marks, [RuntimeError("of the test")]
        raise_marks = marks._raise_marks

        async def raise_once_it_works() -> None:
            if fail:
                raise fail.pop()
            await raise_marks()

        monkeypatch.setattr(marks, "_raise_marks", raise_once_it_works)
        marks._every_s = 0.01
        await one.store.log.append([message(1)])
        await until_raised(one)

        assert await marked(one) == 1

    with_mongo(scenario)
