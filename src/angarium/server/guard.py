"""The first step of every API request: a valid token, within the rate."""

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from angarium.errors import Forbidden, Unauthenticated
from angarium.server.auth import Principal, Tokens
from angarium.server.limiter import RateCheck

Sleep = Callable[[float], Awaitable[None]]
_BEARER = HTTPBearer(auto_error=False, description="An access token: `angarium token USER`.")


class Guard:
    """Puts the principal on the request, or refuses it before its body is looked at."""

    def __init__(
        self, tokens: Tokens, limiter: RateCheck | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._tokens, self._limiter, self._sleep = tokens, limiter, sleep

    async def check(self, request: Request) -> None:
        """Who acts as the user. Raises Unauthenticated, TokenExpired, Forbidden, RateLimited;
        waits when slowed."""
        await self._check_rate(request)
        caller(request).check_acts()

    async def _check_rate(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("a bearer token is missing")
        principal = self._tokens.verify(token.strip())
        request.state.principal = principal
        # Services act for many users at once; what they send is limited where it comes in.
        if self._limiter is not None and "service" not in principal.scopes:
            wait_s = self._limiter.check(principal.user)
            if wait_s:
                await self._sleep(wait_s)

    async def check_admin(self, request: Request) -> None:
        """As `check`, of a token with the scope `admin`, whatever else it allows."""
        await self._check_rate(request)
        if "admin" not in caller(request).scopes:
            raise Forbidden("this needs a token with the scope admin")

    async def check_agents(self, request: Request) -> None:
        """As `check`, also of a token with the scope `agents` alone."""
        await self._check_rate(request)
        caller(request).check_asks()

    def router(
        self,
        tag: str,
        *,
        admin: bool = False,
        agents: bool = False,
        route_class: type[APIRoute] = APIRoute,
    ) -> APIRouter:
        """A router whose every route is behind this guard."""
        check = self.check_admin if admin else self.check_agents if agents else self.check
        return APIRouter(
            tags=[tag],
            dependencies=[Depends(check), Depends(_BEARER)],
            route_class=route_class,
        )


def caller(request: Request) -> Principal:
    """Whose request it is; set by the guard."""
    principal: Principal = request.state.principal
    return principal
