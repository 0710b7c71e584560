"""Who is asking: short-lived bearer tokens, signed here (HS256) and verified here."""

import base64
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jwt

from angarium.clock import Clock, SystemClock
from angarium.errors import (
    Forbidden,
    Malformed,
    Misconfigured,
    StoreUnwritable,
    TokenExpired,
    Unauthenticated,
)
from angarium.ids import DeviceId, UserId, check_user_id
from angarium.messaging.connection import Authenticated

AUDIENCE = "angarium"
ALGORITHM = "HS256"
SECRET_FILE = "token-secret"  # noqa: S105 (a file name)
SECRET_BYTES_MIN = 32
TOKEN_BYTES_MAX = 4096  # Longer: Unauthenticated, without parsing.
SCOPES = frozenset({"user", "agents", "admin", "service", "identity"})
LOCAL_TOKEN_TTL_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Principal:
    """A known user and what the token allows: `user`, `agents` (only ask agents over HTTP),
    `admin` (operators), `service` (the product's own devices), `identity` (may replace a master
    key). Without `user` or `service` it does not act as the user."""

    user: UserId
    scopes: frozenset[str]
    expires_ms: int = 0

    def check_acts(self) -> None:
        """Raises Forbidden where the token does not allow acting as the user."""
        if not self.scopes & {"user", "service"}:
            raise Forbidden("this needs a token with the scope user")

    def check_asks(self) -> None:
        """Raises Forbidden where the token does not allow asking agents over HTTP."""
        if not self.scopes & {"user", "service", "agents"}:
            raise Forbidden("this needs a token with the scope agents or user")


class Tokens:
    """Mints and verifies tokens. The algorithm is pinned: what the header says is not asked."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        """Raises Misconfigured for a secret under 32 bytes."""
        if len(secret) < SECRET_BYTES_MIN:
            raise Misconfigured(f"token_secret: use at least {SECRET_BYTES_MIN} random bytes")
        self._secret, self._clock = secret, clock

    def mint(self, user: str, ttl_s: float, scopes: Sequence[str] = ("user",)) -> str:
        """A token for `user`, valid `ttl_s` seconds. Raises Malformed."""
        if unknown := set(scopes) - SCOPES:
            raise Malformed(f"no such scope: {', '.join(sorted(unknown))}")
        now_s = self._clock.now_ms() // 1000
        claims = {
            "aud": AUDIENCE,
            "sub": check_user_id(user),
            "iat": now_s,
            "exp": now_s + max(1, int(ttl_s)),
            "scope": sorted(scopes),
        }
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    def verify(self, token: str) -> Principal:
        """The principal of a valid token. Raises Unauthenticated, TokenExpired."""
        if not token or len(token) > TOKEN_BYTES_MAX:
            raise Unauthenticated("a bearer token is missing")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                # Times are compared below, on the clock that was handed in.
                options={
                    "require": ["aud", "sub", "exp", "scope"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            user = check_user_id(str(claims["sub"]))
        except (jwt.InvalidTokenError, Malformed, ValueError):
            raise Unauthenticated("the bearer token is wrong") from None
        scopes, expires_s = claims["scope"], claims["exp"]
        if not isinstance(scopes, list) or not isinstance(expires_s, int):
            raise Unauthenticated("the bearer token is wrong")
        if self._clock.now_ms() >= expires_s * 1000:
            raise TokenExpired("the bearer token has expired; get a new one")
        return Principal(user, frozenset(map(str, scopes)) & SCOPES, expires_s * 1000)

    def authenticate(self, token: str, device: DeviceId) -> Authenticated:
        """Who connects a device. Raises Unauthenticated, TokenExpired, Forbidden."""
        principal = self.verify(token)
        principal.check_acts()
        return Authenticated(principal.user, principal.expires_ms)


def load_or_make_secret(folder: Path) -> bytes:
    """The secret kept in `folder`, made at first use, readable by its owner only.

    Raises Misconfigured when others can read it, StoreUnwritable when it cannot be made.
    """
    path = folder / SECRET_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write_once(path, base64.urlsafe_b64encode(secrets.token_bytes(48)))
        if path.stat().st_mode & 0o077:
            raise Misconfigured(f"others can read {path}; run: chmod 600 {path}")
        return path.read_bytes().strip()
    except OSError as error:
        raise StoreUnwritable(f"{path}: {error.strerror}") from None


def _write_once(path: Path, content: bytes) -> None:
    # Written aside and linked: of two processes that start at once, both read one secret.
    aside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            pass  # The other process was first; its secret counts.
    finally:
        aside.unlink()


def mint_token(
    folder: Path,
    user: str,
    scopes: Sequence[str] = ("user",),
    ttl_s: float = LOCAL_TOKEN_TTL_S,
    secret: bytes = b"",
    clock: Clock | None = None,
) -> str:
    """A token from the secret of a local data folder (or `secret`), for the command line."""
    tokens = Tokens(secret or load_or_make_secret(folder), clock or SystemClock())
    return tokens.mint(user, ttl_s, scopes)
