"""Logs: canaries planted in every place must not come out."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from angarium.telemetry.log import MASK, configure_logging, get_logger, redact

PHONE = "+14155550123"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl"
CANARY = "canary-plaintext-7351"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    names = ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx2", "httpcore2", "asyncio")
    loggers = {name: logging.getLogger(name) for name in names}
    before = root.handlers[:], root.level
    kept = {name: (log.handlers[:], log.propagate, log.level) for name, log in loggers.items()}
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:], _ = before[0], root.setLevel(before[1])
    for name, (handlers, propagate, level) in kept.items():
        loggers[name].handlers[:], loggers[name].propagate = handlers, propagate
        loggers[name].setLevel(level)


def parsed(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_its_fields(lines: io.StringIO) -> None:
    get_logger("angarium.x").info("drained", connections=3)

    (line,) = parsed(lines)
    assert line["event"] == "drained"
    assert line["connections"] == 3
    assert (line["level"], line["logger"]) == ("info", "angarium.x")
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "name",
    ["body", "text", "token", "authorization", "phone", "ct", "Auth-Token", "client_secret"],
)
def test_fields_with_secret_names_are_masked_whole(lines: io.StringIO, name: str) -> None:
    get_logger("x").info("seen", **{name: CANARY}, deep={"list": [{name: CANARY}]})

    assert CANARY not in lines.getvalue()
    assert parsed(lines)[0]["deep"] == {"list": [{name: MASK}]}


@pytest.mark.parametrize(
    "secret",
    [PHONE, f"whatsapp:{PHONE}", "14155550123", "+1 (415) 555-0123", f"Bearer {TOKEN}", TOKEN],
)
def test_phones_and_tokens_are_masked_in_any_text(lines: io.StringIO, secret: str) -> None:
    log = get_logger("x")
    log.info(f"calling {secret} now", note=f"to {secret}.", many=(f"<{secret}>",))
    log.info("calling %s", secret)
    logging.getLogger("library").warning("sent to %s", secret)
    logging.getLogger("library").warning("sent", extra={"note": secret})

    written = lines.getvalue()
    assert written.count(MASK) >= 6
    assert "5550123" not in written.replace("-", "")
    assert "eyJ" not in written


def test_exceptions_are_masked_too(lines: io.StringIO) -> None:
    try:
        raise ValueError(f"no route to {PHONE} with Bearer {TOKEN}")
    except ValueError:
        get_logger("x").exception("failed")
        logging.getLogger("library").exception("failed")

    written = lines.getvalue()
    assert "ValueError" in written
    assert PHONE not in written
    assert TOKEN not in written


def test_bytes_are_never_written(lines: io.StringIO) -> None:
    get_logger("x").info("seen", blob=CANARY.encode(), deep=[[CANARY.encode()]])

    assert CANARY not in lines.getvalue()


def test_libraries_write_in_the_same_shape_and_quiet_ones_stay_quiet(
    lines: io.StringIO,
) -> None:
    logging.getLogger("uvicorn.error").warning("slow")
    logging.getLogger("httpx2").info("HTTP Request: POST http://somewhere/?To=1")

    assert [line["event"] for line in parsed(lines)] == ["slow"]


def test_ids_numbers_and_times_stay_readable() -> None:
    kept = {
        "conversation": "0198c8a2-7a11-7bbb-8000-123456789012",
        "sequence": 41,
        "at_ms": 1_790_000_000_000,
        "share": 0.5,
        "on": True,
        "code": "rate_limited",
    }

    assert redact(kept) == kept


def test_nesting_without_end_is_cut() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop

    assert MASK in json.dumps(redact(loop))
