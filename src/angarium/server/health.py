"""`/livez`: the loop turns. `/readyz`: everything this node needs has answered just now."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from angarium.errors import AngariumError
from angarium.limits import HEALTH_CHECK_WAIT_S

Check = Callable[[], Awaitable[None]]


class Health:
    """Runs named checks at once, each bounded; a check fails by raising."""

    def __init__(
        self, checks: Mapping[str, Check], check_wait_s: float = HEALTH_CHECK_WAIT_S
    ) -> None:
        self._checks, self._wait_s = dict(checks), check_wait_s
        self._draining = False

    def drain(self) -> None:
        """Not ready from now on: load balancers look elsewhere."""
        self._draining = True

    async def failures(self) -> dict[str, str]:
        """Failed checks and their error codes; empty when ready."""
        names = list(self._checks)
        outcomes = await asyncio.gather(*(self._run(self._checks[name]) for name in names))
        failed = {name: code for name, code in zip(names, outcomes, strict=True) if code}
        return {**failed, "drain": "draining"} if self._draining else failed

    async def _run(self, check: Check) -> str:
        try:
            await asyncio.wait_for(check(), self._wait_s)
        except TimeoutError:
            return "timeout"
        except AngariumError as error:
            return error.code
        except Exception:  # Whatever broke, the answer is "not ready", not a crash of the page.
            return "internal"
        return ""

    def router(self) -> APIRouter:
        router = APIRouter(tags=["health"])
        router.add_api_route("/livez", self._livez, summary="The process answers.")
        router.add_api_route("/readyz", self._readyz, summary="Its dependencies answer.")
        return router

    async def _livez(self) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    async def _readyz(self) -> JSONResponse:
        failed = await self.failures()
        checks = {name: failed.get(name, "ok") for name in (*self._checks, *failed)}
        status = "not ready" if failed else "ready"
        return JSONResponse({"status": status, "checks": checks}, 503 if failed else 200)
