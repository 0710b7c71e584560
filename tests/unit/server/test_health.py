"""Readiness: everything needed has answered just now."""

import asyncio

import httpx2

from angarium.errors import KmsUnavailable
from angarium.server.api import make_app
from angarium.server.health import Check, Health
from angarium.telemetry.metrics import Metrics


async def good() -> None:
    return


async def broken() -> None:
    raise KmsUnavailable("secret detail")


async def crashed() -> None:
    raise RuntimeError("secret detail")


async def silent() -> None:
    await asyncio.Event().wait()


def readiness(health: Health, path: str = "/readyz") -> httpx2.Response:
    async def scenario() -> httpx2.Response:
        app = make_app(version="0", health=health, metrics=Metrics())
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.get(path)

    return asyncio.run(scenario())


def test_ready_when_every_check_answers() -> None:
    answer = readiness(Health({"store": good, "bus": good}))

    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": {"store": "ok", "bus": "ok"}}


def test_each_failed_check_is_named_without_detail() -> None:
    checks: dict[str, Check] = {
        "store": good, "kms": broken, "bus": crashed, "gateway": silent,
    }  # fmt: skip
    answer = readiness(Health(checks, check_wait_s=0.01))

    assert answer.status_code == 503
    assert answer.json()["checks"] == {
        "store": "ok",
        "kms": "kms_unavailable",
        "bus": "internal",
        "gateway": "timeout",
    }
    assert "secret" not in answer.text


def test_a_draining_node_is_alive_and_not_ready() -> None:
    health = Health({"store": good})
    health.drain()

    assert readiness(health).status_code == 503
    assert readiness(health, "/livez").status_code == 200
