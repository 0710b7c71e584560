import asyncio

import pytest

from angarium.agents.contract import Done, Handoff, Status, Text
from angarium.agents.kinds.function import run_function


def events(function):
    async def collect():
        return [event async for event in run_function(function, None)]

    return asyncio.run(collect())


def test_returned_text_is_one_event():
    async def f(turn):
        return "hi"

    assert events(f) == [Text("hi"), Done()]


def test_none_is_an_empty_reply():
    async def f(turn):
        return None

    assert events(f) == [Done()]


def test_what_a_generator_yields_keeps_its_order():
    async def f(turn):
        yield "a"
        yield Status("b")
        yield Handoff("c")

    assert events(f) == [Text("a"), Status("b"), Handoff("c"), Done()]


def test_a_returned_generator_is_followed():
    async def inner():
        yield "a"

    async def f(turn):
        return inner()

    assert events(f) == [Text("a"), Done()]


@pytest.mark.parametrize("answer", [1, b"x", ["x"], object()])
def test_anything_else_is_refused_by_type_and_not_quoted(answer):
    async def f(turn):
        return answer

    with pytest.raises(TypeError, match=f"not {type(answer).__name__}$"):
        events(f)


def test_a_generator_that_is_left_is_closed():
    closed = []

    async def f(turn):
        try:
            yield "a"
            yield "b"
        finally:
            closed.append(True)

    async def leave():
        running = run_function(f, None)
        await anext(running)
        await running.aclose()

    asyncio.run(leave())
    assert closed == [True]
