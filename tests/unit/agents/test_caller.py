"""What is known of an agent elsewhere before and after it is called. No network."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from pydantic import SecretStr

from angarium.agents.kinds.caller import (
    check_status,
    check_url,
    media_type,
    parse_json,
    read_body,
    retry_after_ms,
    secret_of,
)
from angarium.errors import AgentFailed, BadReply, Misconfigured, TooLarge, Unavailable
from angarium.limits import REMOTE_RETRY_AFTER_S_MAX

NOW_MS = 1_790_000_000_000  # Mon, 21 Sep 2026 14:13:20 GMT


@pytest.mark.parametrize(
    ("value", "after_ms"),
    [
        ("", 1000),
        ("0", 1000),
        ("7", 7000),
        ("1.5", 1500),
        ("-3", 1000),
        ("nan", 1000),
        ("inf", round(REMOTE_RETRY_AFTER_S_MAX * 1000)),
        ("1e99", round(REMOTE_RETRY_AFTER_S_MAX * 1000)),
        ("Mon, 21 Sep 2026 14:13:50 GMT", 30_000),
        ("Mon, 21 Sep 2020 14:13:50 GMT", 1000),
        ("soon", 1000),
    ],
)
def test_a_pause_that_is_asked_for_is_read_and_bounded(value: str, after_ms: int) -> None:
    assert retry_after_ms(value, NOW_MS) == after_ms


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, BadReply),
        (400, AgentFailed),
        (401, Misconfigured),
        (403, Misconfigured),
        (404, AgentFailed),
        (408, Unavailable),
        (413, TooLarge),
        (429, Unavailable),
        (500, AgentFailed),
        (501, AgentFailed),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_a_status_is_an_error_of_ours(status: int, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        check_status(httpx2.Response(status, content=b"secret"), NOW_MS)
    assert type(caught.value) is error
    assert "secret" not in str(caught.value)


def test_a_body_over_its_bound_is_left_where_it_is() -> None:
    read: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            read.append(1)
            yield b"x" * 10

    async def scenario() -> None:
        declared = {"content-length": "1000"}
        with pytest.raises(TooLarge):
            await read_body(httpx2.Response(200, headers=declared, content=body()), 100)
        assert not read, "it said itself that it is too long"
        with pytest.raises(TooLarge):
            await read_body(httpx2.Response(200, content=body()), 100)
        assert len(read) == 11
        assert len(await read_body(httpx2.Response(200, content=body()), 1000)) == 1000

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_good_status_passes(status: int) -> None:
    check_status(httpx2.Response(status), NOW_MS)


@pytest.mark.parametrize("url", ["http://x", "https://x:1/y?z=1", "http://[::1]:80/"])
def test_an_address_passes(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    ["", "x", "file:///etc/passwd", "http://", "http://u:p@x", "http://x:99999", "http://["],
)
def test_what_is_no_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        check_url(url)
    assert "u:p" not in str(caught.value)


def test_a_secret_is_itself_or_in_the_variable_of_that_name() -> None:
    assert secret_of(None) == secret_of("") == ""
    assert secret_of(SecretStr("k"), {}) == "k"
    assert secret_of("KEY", {"KEY": "k"}) == "k"
    for environ in ({}, {"KEY": ""}):
        with pytest.raises(Misconfigured) as caught:
            secret_of("KEY", environ)
        assert "KEY" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "1" * 10_000, "\ud800"])
def test_what_is_not_json_has_a_name(text: str) -> None:
    with pytest.raises(BadReply):
        parse_json(text)


def test_a_type_is_read_without_its_parameters() -> None:
    answered = httpx2.Response(200, headers={"content-type": " Text/Event-Stream; charset=x"})
    assert media_type(answered) == "text/event-stream"
    assert media_type(httpx2.Response(200)) == ""
