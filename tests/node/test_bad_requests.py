"""Every door of the HTTP API, as its own description lists them, against nonsense."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from angarium.server.auth import mint_token
from angarium.testing.process import ServedNode

from .nodes import WAIT_S, Run, get

pytestmark = [pytest.mark.process, pytest.mark.slow]

LONG = "x" * 3000
WORDS = [
    "",
    "..",
    "%00",
    "%ff%fe",
    "%F0%9F%92%A9",
    "-1",
    "0",
    "99999999999999999999",
    LONG,
    "@a:b",
]
VALUES: list[Any] = [
    None, True, -1, 2**63, 1.5, "", "\0", "\ud800", LONG, [], {}, [[]], {"": {"": {}}},
    ["@a:b"] * 300, {"@a:b": {"D": 1}}, {"@a:b": None}, {"a": "b"}, [None],
]  # fmt: skip


def requests_of(description: dict[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    """(method, path, body) of many requests to each door, right in shape only by chance."""
    for path, doors in description["paths"].items():
        if path.startswith("/webhooks"):
            continue  # Signed, and tested elsewhere.
        for method, door in doors.items():
            names = fields_of(description, door)
            for word in WORDS:
                filled = re.sub(r"\{\w+\}", word, path)
                query = "&".join(
                    f"{each['name']}={word}"
                    for each in door.get("parameters", [])
                    if each["in"] == "query"
                )
                yield method, f"{filled}?{query}", b"{}"
            filled = re.sub(r"\{\w+\}", "1", path)
            for value in VALUES:
                whole = json.dumps(value).encode()
                each = json.dumps(dict.fromkeys(names, value)).encode()
                yield method, filled, whole
                yield method, filled, each
            for broken in (b"", b"{", b"\xff", b"[" * 9000, b'{"a":1,"a":2}', b"NaN"):
                yield method, filled, broken


def fields_of(description: dict[str, Any], door: dict[str, Any]) -> list[str]:
    """The names of the fields of a door's body."""
    content = door.get("requestBody", {}).get("content", {})
    schemas = [each.get("schema", {}) for each in content.values()]
    referred = [
        description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        for schema in schemas
        if "$ref" in schema
    ]
    return list(itertools.chain(*(each.get("properties", {}) for each in referred)))


async def assert_refused_or_done(
    client: httpx2.AsyncClient, method: str, path: str, body: bytes, key: str
) -> str:
    """The node answers in its own words, whatever it was asked."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    answer = await client.request(method.upper(), path, content=body, headers=headers)
    where = f"{method} {path[:80]} {body[:80]!r}: {answer.status_code}"
    assert answer.status_code < 500, where
    if answer.status_code >= 400:
        told = answer.json()["error"]
        assert told["code"] not in ("", "internal"), where
        assert LONG not in answer.text, where
    assert answer.headers["X-Content-Type-Options"] == "nosniff", where
    return f"{answer.status_code // 100}xx"


def test_no_request_breaks_the_node_and_each_refusal_is_named(
    node: ServedNode, run: Run
) -> None:
    async def scenario() -> None:
        description = (await get(node, "/openapi.json")).json()
        # A service's token is not rate limited, and an operator's opens every door.
        token = mint_token(node.folder, "@fuzz:angarium", ("user", "admin", "service"))
        seen: set[str] = set()
        async with httpx2.AsyncClient(
            base_url=node.http_url,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=WAIT_S,
        ) as client:
            for count, (method, path, body) in enumerate(requests_of(description)):
                seen.add(await assert_refused_or_done(client, method, path, body, str(count)))
            assert count > 500
        assert seen == {"2xx", "4xx"}
        assert (await get(node, "/readyz")).status_code == 200

    run(scenario())
