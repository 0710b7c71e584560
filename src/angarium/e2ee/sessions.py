"""The ratchets of one device: up to four sessions with each other device.

vodozemac's sessions can move even when a message does not open (a forged ratchet key may be
taken in). So a snapshot is taken before every attempt and put back unless all of it succeeds.
"""

import hashlib
from collections.abc import Callable, Iterator

import msgspec
import vodozemac

from angarium.clock import Clock
from angarium.errors import Replayed, Undecryptable
from angarium.ids import RandomBytes
from angarium.limits import (
    OPENED_REMEMBERED,
    SESSION_KEPT_S,
    SESSION_RENEW_S,
    SESSION_UNANSWERED_MAX,
    SESSIONS_PER_DEVICE_MAX,
    SESSIONS_RETIRED_MAX,
)

_MARK_BYTES = 8


class _Record(msgspec.Struct, array_like=True):
    curve25519: str
    pickle_key: bytes
    pickle: str
    created_ms: int
    order: int
    unanswered: int
    greeting: bool
    opened: bytes


class _Retired(msgspec.Struct, array_like=True):
    curve25519: str
    ids: list[str]


class Session:
    """One ratchet. `order` grows when it receives; `greeting` until the other side answered."""

    def __init__(self, olm: vodozemac.Session, created_ms: int, order: int) -> None:
        self.olm = olm
        self.created_ms, self.order = created_ms, order
        self.unanswered = 0
        self.greeting = False
        self.opened = b""

    def open(
        self, message: vodozemac.AnyOlmMessage, mark: bytes, check: Callable[[bytes], bytes]
    ) -> bytes:
        """What `check` makes of the plaintext; on any error the ratchet is as before."""
        key = hashlib.sha256(mark).digest()  # The pickle stays in memory: any key does.
        before = self.olm.pickle(key)
        try:
            opened = check(self.olm.decrypt(message))
        except BaseException:
            self.olm = vodozemac.Session.from_pickle(before, key)
            raise
        self.note_opened(mark)
        return opened

    def note_opened(self, mark: bytes) -> None:
        self.opened = (self.opened + mark)[-_MARK_BYTES * OPENED_REMEMBERED :]
        self.unanswered, self.greeting = 0, False

    def has_opened(self, mark: bytes) -> bool:
        marks = range(0, len(self.opened), _MARK_BYTES)
        return any(self.opened[at : at + _MARK_BYTES] == mark for at in marks)


class Sessions:
    """All sessions of a device by the other side's Curve25519 key. `changed` names records."""

    def __init__(self, clock: Clock, random: RandomBytes) -> None:
        self._clock, self._random = clock, random
        self._sessions: dict[str, dict[str, Session]] = {}
        self._retired: dict[str, list[str]] = {}
        self._renew: dict[str, tuple[float, bool]] = {}  # when asked, still open
        self.changed: set[str] = set()

    def load(self, key: str, record: bytes) -> None:
        """Take in a record under `session/...` or `retired/...`."""
        if key.startswith("retired/"):
            retired = msgspec.msgpack.decode(record, type=_Retired)
            self._retired[retired.curve25519] = retired.ids
            return
        it = msgspec.msgpack.decode(record, type=_Record)
        session = Session(
            vodozemac.Session.from_pickle(it.pickle, it.pickle_key), it.created_ms, it.order
        )
        session.unanswered, session.greeting, session.opened = (
            it.unanswered,
            it.greeting,
            it.opened,
        )
        self._sessions.setdefault(it.curve25519, {})[session.olm.session_id] = session

    def record(self, key: str) -> bytes | None:
        """The record to store under `key`; None: forget it."""
        part, _, rest = key.partition("/")
        if part == "retired":
            curve25519 = _unsafe(rest)
            return msgspec.msgpack.encode(_Retired(curve25519, self._retired[curve25519]))
        curve25519, session_id = (_unsafe(text) for text in rest.split("/"))
        session = self._sessions.get(curve25519, {}).get(session_id)
        if session is None:
            return None
        # A pickle's IV is fixed per key, so each record has a key of its own.
        pickle_key = self._random(32)
        return msgspec.msgpack.encode(
            _Record(
                curve25519,
                pickle_key,
                session.olm.pickle(pickle_key),
                session.created_ms,
                session.order,
                session.unanswered,
                session.greeting,
                session.opened,
            )
        )

    def best(self, curve25519: str) -> Session | None:
        """The one that received last, else the newest."""
        return next(self._newest_first(curve25519), None)

    def wants_new(self, curve25519: str) -> bool:
        """No session, or one that is old, unanswered for long, or does not open messages."""
        session = self.best(curve25519)
        if session is None:
            return True
        age_s = (self._clock.now_ms() - session.created_ms) / 1000
        return (
            session.unanswered >= SESSION_UNANSWERED_MAX
            or age_s > SESSION_KEPT_S
            or self._renew.get(curve25519, (0.0, False))[1]
        )

    def ask_for_new(self, curve25519: str) -> None:
        """Something did not open: want a new session, at most once in SESSION_RENEW_S."""
        now_s = self._clock.monotonic_s()
        asked_s, _ = self._renew.get(curve25519, (-SESSION_RENEW_S, False))
        if now_s - asked_s >= SESSION_RENEW_S:
            self._renew[curve25519] = (now_s, True)

    def add(self, curve25519: str, olm: vodozemac.Session, greeting: bool) -> Session:
        """Keep a new session and prefer it; of too many, the one unused longest goes."""
        best = self.best(curve25519)
        session = Session(olm, self._clock.now_ms(), best.order + 1 if best else 1)
        session.greeting = greeting
        sessions = self._sessions.setdefault(curve25519, {})
        sessions[olm.session_id] = session
        self._touch(curve25519, session)
        if len(sessions) > SESSIONS_PER_DEVICE_MAX:
            oldest = min(sessions.values(), key=lambda kept: kept.order)
            self._retire(curve25519, oldest)
        if greeting and curve25519 in self._renew:
            self._renew[curve25519] = (self._renew[curve25519][0], False)
        return session

    def seal(self, curve25519: str, session: Session, plaintext: bytes) -> tuple[int, bytes]:
        """Olm message type and body; the ratchet has moved on."""
        kind, body = session.olm.encrypt(plaintext).to_parts()
        session.unanswered += 1
        self._touch(curve25519, session)
        return kind, body

    def open(
        self, curve25519: str, message: vodozemac.AnyOlmMessage, check: Callable[[bytes], bytes]
    ) -> bytes | vodozemac.PreKeyMessage:
        """The plaintext by one of the sessions; else the message, which starts a new one.

        Raises Replayed, Undecryptable, and what `check` raises.
        """
        prekey = message.to_pre_key()
        mark = mark_of(message)
        matched = False
        for session in self._newest_first(curve25519):
            if prekey is not None and not session.olm.session_matches(prekey):
                continue
            matched = True
            try:
                plaintext = session.open(message, mark, check)
            except ValueError:
                continue
            self._note_received(curve25519, session)
            return plaintext
        if any(session.has_opened(mark) for session in self._newest_first(curve25519)):
            raise Replayed("this ciphertext was opened before")
        if prekey is not None and prekey.session_id() in self._retired.get(curve25519, []):
            raise Replayed("this session ended")
        if prekey is None or matched:
            raise Undecryptable("no session opens this ciphertext")
        return prekey

    def _note_received(self, curve25519: str, session: Session) -> None:
        best = self.best(curve25519)
        if best is not None and best is not session:
            session.order = best.order + 1
        self._touch(curve25519, session)

    def _newest_first(self, curve25519: str) -> Iterator[Session]:
        sessions = self._sessions.get(curve25519, {}).values()
        return iter(sorted(sessions, key=lambda session: -session.order))

    def _retire(self, curve25519: str, session: Session) -> None:
        session_id = session.olm.session_id
        self._touch(curve25519, session)
        del self._sessions[curve25519][session_id]
        retired = [*self._retired.get(curve25519, []), session_id]
        self._retired[curve25519] = retired[-SESSIONS_RETIRED_MAX:]
        self.changed.add(f"retired/{_safe(curve25519)}")

    def _touch(self, curve25519: str, session: Session) -> None:
        self.changed.add(f"session/{_safe(curve25519)}/{_safe(session.olm.session_id)}")


def mark_of(message: vodozemac.AnyOlmMessage) -> bytes:
    """A short mark by which a ciphertext opened before is known again."""
    return hashlib.sha256(message.to_parts()[1]).digest()[:_MARK_BYTES]


def _safe(base64_text: str) -> str:
    """Base64 that can stand in a record's key."""
    return base64_text.replace("+", "-").replace("/", "_")


def _unsafe(safe_text: str) -> str:
    return safe_text.replace("-", "+").replace("_", "/")
