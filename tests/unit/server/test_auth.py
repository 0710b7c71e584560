"""Tokens: what passes, what is refused, and where the secret lives."""

from pathlib import Path

import jwt
import pytest

from angarium.clock import ManualClock
from angarium.errors import Forbidden, Malformed, Misconfigured, TokenExpired, Unauthenticated
from angarium.ids import DeviceId
from angarium.server.auth import SECRET_FILE, Tokens, load_or_make_secret, mint_token

SECRET = b"s" * 32
USER = "@ada:angarium"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tokens(clock: ManualClock) -> Tokens:
    return Tokens(SECRET, clock)


def forged(
    clock: ManualClock, secret: bytes = SECRET, algorithm: str = "HS256", **claims: object
) -> str:
    now_s = clock.now_ms() // 1000
    whole = {"aud": "angarium", "sub": USER, "exp": now_s + 60, "scope": ["user"], **claims}
    present = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(present, secret, algorithm=algorithm)


def test_a_minted_token_names_its_user_and_scopes(tokens: Tokens) -> None:
    principal = tokens.verify(tokens.mint(USER, 60, ["user", "admin"]))

    assert (principal.user, principal.scopes) == (USER, {"user", "admin"})


def test_only_users_and_services_may_be_greeted(tokens: Tokens, clock: ManualClock) -> None:
    for scopes in (["user"], ["service"], ["user", "admin"]):
        known = tokens.authenticate(tokens.mint(USER, 60, scopes), DeviceId("ADAONE"))
        assert (known.user, known.expires_ms) == (USER, clock.now_ms() // 1000 * 1000 + 60_000)
    for scopes in (["admin"], ["identity"], ["admin", "identity"], []):
        with pytest.raises(Forbidden):
            tokens.authenticate(tokens.mint(USER, 60, scopes), DeviceId("ADAONE"))


def test_a_token_expires_on_the_clock_given(tokens: Tokens, clock: ManualClock) -> None:
    token = tokens.mint(USER, 60)
    clock.advance(59)
    tokens.verify(token)
    clock.advance(1)

    with pytest.raises(TokenExpired):
        tokens.verify(token)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"},
        {"aud": None},
        {"exp": None},
        {"exp": "soon"},
        {"sub": None},
        {"sub": "ada"},
        {"scope": None},
        {"scope": "admin"},
    ],
    ids=str,
)
def test_wrong_claims_are_refused(
    tokens: Tokens, clock: ManualClock, claims: dict[str, object]
) -> None:
    with pytest.raises(Unauthenticated):
        tokens.verify(forged(clock, **claims))


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
@pytest.mark.parametrize("algorithm", ["HS512", "HS384", "none"])
def test_another_algorithm_is_refused(
    tokens: Tokens, clock: ManualClock, algorithm: str
) -> None:
    secret = None if algorithm == "none" else SECRET
    token = forged(clock, secret=secret, algorithm=algorithm)  # type: ignore[arg-type]

    with pytest.raises(Unauthenticated):
        tokens.verify(token)


def test_another_secret_is_refused(tokens: Tokens, clock: ManualClock) -> None:
    with pytest.raises(Unauthenticated):
        tokens.verify(forged(clock, secret=b"t" * 32))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "e" * 5000, "é.é.é"], ids=repr)
def test_what_is_no_token_is_refused(tokens: Tokens, token: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens.verify(token)


def test_unknown_scopes_are_not_minted_and_not_believed(
    tokens: Tokens, clock: ManualClock
) -> None:
    with pytest.raises(Malformed):
        tokens.mint(USER, 60, ["root"])

    assert tokens.verify(forged(clock, scope=["user", "root"])).scopes == {"user"}


def test_a_short_secret_is_a_clear_start_up_error(clock: ManualClock) -> None:
    with pytest.raises(Misconfigured, match="32"):
        Tokens(b"short", clock)


def test_the_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    first = load_or_make_secret(tmp_path / "data")

    assert load_or_make_secret(tmp_path / "data") == first
    assert len(first) >= 32
    assert (tmp_path / "data" / SECRET_FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == [SECRET_FILE]


def test_a_secret_others_can_read_is_refused(tmp_path: Path) -> None:
    load_or_make_secret(tmp_path)
    (tmp_path / SECRET_FILE).chmod(0o644)

    with pytest.raises(Misconfigured, match="chmod 600"):
        load_or_make_secret(tmp_path)


def test_a_local_token_is_valid_for_the_node_of_that_folder(
    tmp_path: Path, clock: ManualClock
) -> None:
    token = mint_token(tmp_path, USER, clock=clock)

    assert Tokens(load_or_make_secret(tmp_path), clock).verify(token).user == USER
