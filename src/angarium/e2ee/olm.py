"""One device's end-to-end encryption on vodozemac (Olm, the Double Ratchet).

The plaintext inside Olm has the JSON shape that Matrix crypto libraries demand, so that an
`OlmMachine` in a browser can be the other side. `alg` in its content leaves room for a
post-quantum layer; there is none yet.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import vodozemac

from angarium.clock import Clock
from angarium.e2ee.engine import Change, Roster, TrustedDevice
from angarium.e2ee.identity import Identity, safety_number
from angarium.e2ee.sessions import Session, Sessions, mark_of
from angarium.e2ee.trust import Trust
from angarium.e2ee.wire import OlmCiphertext, pad, unpad
from angarium.errors import (
    EnvelopeMismatch,
    Malformed,
    Replayed,
    SealBroken,
    TooLarge,
    Undecryptable,
    UnverifiedDevice,
)
from angarium.ids import DeviceId, RandomBytes, UserId
from angarium.limits import FALLBACK_KEY_KEPT_S, ONE_TIME_KEYS_STORED_MAX
from angarium.model.device import DeviceKind
from angarium.model.signatures import (
    OLM_ALGORITHM,
    PublicDevice,
    check_device_keys,
    check_signed_key,
    decode_base64,
    signed_bytes,
)

MESSAGE_TYPE = "angarium.message"
ALGORITHM = "olm"


class _Content(msgspec.Struct):
    v: int
    alg: str
    body: bytes


class _Payload(msgspec.Struct, omit_defaults=True):
    type: str
    content: _Content
    sender: str
    recipient: str
    keys: dict[str, str]
    recipient_keys: dict[str, str]
    sender_device: str = ""
    sender_device_keys: dict[str, Any] | None = None


class _Account(msgspec.Struct, array_like=True):
    pickle_key: bytes
    pickle: str
    kind: str
    fallback: bytes  # JSON of the last fallback key, signed
    fallback_made_ms: int


_decode_payload = msgspec.json.Decoder(_Payload).decode
_encode_json = msgspec.json.Encoder().encode


class OlmEngine:
    """Implements `CryptoEngine`. Make one with `create`, `create_device` or `load`."""

    def __init__(
        self,
        user: UserId,
        device: DeviceId,
        account: vodozemac.Account,
        identity: Identity | None,
        kind: DeviceKind,
        clock: Clock,
        random: RandomBytes,
    ) -> None:
        self.user, self.device, self.kind = user, device, kind
        self._account, self._identity = account, identity
        self._clock, self._random = clock, random
        self._curve25519 = account.curve25519_key.to_base64()
        self._curve25519_raw = decode_base64(self._curve25519, 32)
        self._ed25519 = account.ed25519_key.to_base64()
        self._own = TrustedDevice(user, device, self._curve25519, self._ed25519)
        self._trust = Trust(self._own)
        self._sessions = Sessions(clock, random)
        self._fallback: dict[str, Any] = {}
        self._fallback_made_ms = 0
        self._changed: set[str] = set()
        self._device_keys = self._make_device_keys()

    @classmethod
    def create(
        cls,
        user: UserId,
        device: DeviceId,
        *,
        kind: DeviceKind,
        clock: Clock,
        random: RandomBytes = secrets.token_bytes,
    ) -> "OlmEngine":
        """A user's first device, with a new identity."""
        identity = Identity.create(user, random)
        return cls.create_device(
            user, device, kind=kind, identity=identity, clock=clock, random=random
        )

    @classmethod
    def create_device(
        cls,
        user: UserId,
        device: DeviceId,
        *,
        kind: DeviceKind,
        identity: Identity | None,
        clock: Clock,
        random: RandomBytes = secrets.token_bytes,
    ) -> "OlmEngine":
        """A further device. `identity` comes from `export_identity` of an earlier one; without
        it the device is trusted only after `sign_device` of an earlier one signed it."""
        engine = cls(user, device, vodozemac.Account(), identity, kind, clock, random)
        engine._changed.add("account")
        if identity is not None:
            engine._changed.add("identity")
            master = next(iter(identity.public()["master_key"]["keys"].values()))
            engine._trust.pin(user, master)
        return engine

    @classmethod
    def load(
        cls,
        user: UserId,
        device: DeviceId,
        records: Mapping[str, bytes],
        *,
        clock: Clock,
        random: RandomBytes = secrets.token_bytes,
    ) -> "OlmEngine":
        """The engine as it was when `take_changes` gave these records. Raises SealBroken."""
        try:
            it = msgspec.msgpack.decode(records["account"], type=_Account)
            account = vodozemac.Account.from_pickle(it.pickle, it.pickle_key)
            identity = Identity.load(records["identity"]) if "identity" in records else None
            kind = msgspec.convert(it.kind, DeviceKind)
            engine = cls(user, device, account, identity, kind, clock, random)
            engine._fallback = msgspec.json.decode(it.fallback)
            engine._fallback_made_ms = it.fallback_made_ms
            for key, record in records.items():
                if key.startswith(("pins/", "known/")):
                    engine._trust.load(key, record)
                elif key.startswith(("session/", "retired/")):
                    engine._sessions.load(key, record)
        except (KeyError, ValueError, msgspec.MsgspecError):
            raise SealBroken("a record of the device does not open") from None
        return engine

    # --- keys -------------------------------------------------------------------------------

    def device_keys(self) -> dict[str, Any]:
        return msgspec.json.decode(self._device_keys)  # type: ignore[no-any-return]

    def identity_keys(self) -> dict[str, Any] | None:
        if self._identity is None or not self._identity.holds_master:
            return None
        return self._identity.public()

    def export_identity(self) -> Identity:
        """What `create_device` needs. Raises UnverifiedDevice when it is not held here."""
        if self._identity is None:
            raise UnverifiedDevice("this device does not hold the self-signing key")
        return self._identity.for_further_device()

    def sign_device(self, device_keys: dict[str, Any]) -> dict[str, Any]:
        """Another device of this user, signed after its person compared keys.

        Raises Malformed, UnverifiedDevice.
        """
        if self._identity is None:
            raise UnverifiedDevice("this device does not hold the self-signing key")
        check_device_keys(device_keys)
        return self._identity.sign_device(device_keys)

    def make_prekeys(self, one_time: int, fallback: bool) -> dict[str, Any]:
        """As in the contract. A fallback key younger than a week is given again: the one before
        it stays valid for one change only, so two changes in a row would lose messages."""
        self._account.generate_one_time_keys(min(one_time, ONE_TIME_KEYS_STORED_MAX))
        one_time_keys = {
            f"signed_curve25519:{key_id}": self._signed({"key": key.to_base64()})
            for key_id, key in self._account.one_time_keys.items()
        }
        now_ms = self._clock.now_ms()
        age_s = (now_ms - self._fallback_made_ms) / 1000
        if fallback and (not self._fallback or age_s >= FALLBACK_KEY_KEPT_S):
            account: Any = self._account  # The library's stubs leave the fallback key out.
            account.generate_fallback_key()
            self._fallback = {
                f"signed_curve25519:{key_id}": self._signed(
                    {"key": key.to_base64(), "fallback": True}
                )
                for key_id, key in account.fallback_key.items()
            }
            self._fallback_made_ms = now_ms
        self._account.mark_keys_as_published()
        self._changed.add("account")
        return {
            "one_time_keys": one_time_keys,
            "fallback_keys": dict(self._fallback) if fallback else {},
        }

    # --- trust ------------------------------------------------------------------------------

    def learn(self, lists: Mapping[str, Any]) -> None:
        self._trust.learn(lists)

    def accept_identity(self, user: UserId) -> None:
        self._trust.accept(user)

    def is_verified(self, user: UserId) -> bool:
        """Whether a person compared safety numbers, and nothing changed since."""
        return self._trust.is_verified(user)

    def devices(self, users: Sequence[UserId]) -> list[TrustedDevice]:
        return self._trust.devices(users)

    def roster(self, users: Sequence[UserId]) -> Roster:
        return self._trust.roster(users)

    def safety_number(self, other: UserId) -> str:
        return safety_number(
            (self.user, decode_base64(self._trust.master(self.user), 32)),
            (other, decode_base64(self._trust.master(other), 32)),
        )

    # --- sessions ---------------------------------------------------------------------------

    def without_session(self, devices: Sequence[TrustedDevice]) -> list[TrustedDevice]:
        """As in the contract; also those whose session should be replaced. When no key can be
        claimed for such a one, `seal` still works."""
        return [device for device in devices if self._sessions.wants_new(device.curve25519)]

    def start_sessions(self, claimed: Mapping[str, Any]) -> list[DeviceId]:
        started: list[DeviceId] = []
        for user, by_device in claimed.items():
            for device_id, keys in (by_device or {}).items():
                device = self._trust.find(UserId(user), DeviceId(device_id))
                if device is None or not self._trust.is_current(device):
                    continue
                if self._start(device, keys) or self._sessions.best(device.curve25519):
                    started.append(device.id)
        return started

    def _start(self, device: TrustedDevice, keys: Any) -> bool:
        owner = PublicDevice(device.user, device.id, device.curve25519, device.ed25519)
        for name, key in keys.items() if isinstance(keys, Mapping) else ():
            try:
                if not name.startswith("signed_curve25519:"):
                    continue
                session = self._account.create_outbound_session(
                    vodozemac.Curve25519PublicKey.from_base64(device.curve25519),
                    vodozemac.Curve25519PublicKey.from_base64(check_signed_key(key, owner)),
                )
            except (Malformed, UnverifiedDevice, ValueError):
                continue
            self._sessions.add(device.curve25519, session, greeting=True)
            return True
        return False

    def seal(self, device: TrustedDevice, plaintext: bytes) -> bytes:
        if not self._trust.is_current(device):
            raise UnverifiedDevice("this device is not trusted now")
        session = self._sessions.best(device.curve25519)
        if session is None:
            raise Undecryptable("there is no session with this device")
        payload = self._payload(device, session, pad(plaintext))
        kind, body = self._sessions.seal(device.curve25519, session, payload)
        return OlmCiphertext(kind, self._curve25519_raw, body).pack()

    def _payload(self, device: TrustedDevice, session: Session, padded: bytes) -> bytes:
        return _encode_json(
            _Payload(
                type=MESSAGE_TYPE,
                content=_Content(1, ALGORITHM, padded),
                sender=self.user,
                recipient=device.user,
                keys={"ed25519": self._ed25519},
                recipient_keys={"ed25519": device.ed25519},
                sender_device=self.device,
                # Only while the other side may not know this device: it is most of the size.
                sender_device_keys=self.device_keys() if session.greeting else None,
            )
        )

    def unseal(self, sender: UserId, device: DeviceId, ciphertext: bytes) -> bytes:
        trusted = self._trust.find(sender, device)
        if trusted is None:
            raise UnverifiedDevice("the sending device is not signed by its owner")
        try:
            sealed = OlmCiphertext.unpack(ciphertext)
            message = vodozemac.AnyOlmMessage.from_parts(sealed.kind, sealed.body)
        except (Malformed, TooLarge, ValueError):
            raise Undecryptable("not a ciphertext") from None
        if sealed.sender_key != decode_base64(trusted.curve25519, 32):
            raise EnvelopeMismatch("sealed by another device than the relay says")

        def check(plaintext: bytes) -> bytes:
            return self._check(trusted, plaintext)

        try:
            opened = self._sessions.open(trusted.curve25519, message, check)
            if isinstance(opened, bytes):
                return opened
            return self._open_first(trusted, opened)
        except Undecryptable:
            self._sessions.ask_for_new(trusted.curve25519)
            raise

    def _open_first(self, sender: TrustedDevice, message: vodozemac.PreKeyMessage) -> bytes:
        """Open a message that starts a session; its one-time key goes only if all is well."""
        key = self._random(32)
        before = self._account.pickle(key)
        try:
            session, plaintext = self._account.create_inbound_session(
                vodozemac.Curve25519PublicKey.from_base64(sender.curve25519),
                message,
            )
            opened = self._check(sender, plaintext)
        except ValueError:
            self._account = vodozemac.Account.from_pickle(before, key)
            raise Undecryptable("no key of this device opens this ciphertext") from None
        except (EnvelopeMismatch, Replayed):
            self._account = vodozemac.Account.from_pickle(before, key)
            raise
        self._sessions.add(sender.curve25519, session, greeting=False).note_opened(
            mark_of(message.to_any())
        )
        self._changed.add("account")
        return opened

    def _check(self, sender: TrustedDevice, plaintext: bytes) -> bytes:
        """The content, if sender and recipient inside the seal are these. Raises
        EnvelopeMismatch."""
        try:
            payload = _decode_payload(plaintext)
            facts = (
                (payload.type, MESSAGE_TYPE),
                ((payload.content.v, payload.content.alg), (1, ALGORITHM)),
                (payload.sender, sender.user),
                # Some libraries leave the device out: the key below names it just as well.
                (payload.sender_device or sender.id, sender.id),
                (payload.keys.get("ed25519"), sender.ed25519),
                (payload.recipient, self.user),
                (payload.recipient_keys.get("ed25519"), self._ed25519),
            )
            if any(inside != outside for inside, outside in facts):
                raise EnvelopeMismatch("sealed by or for another device")
            if payload.sender_device_keys is not None:
                claimed = check_device_keys(payload.sender_device_keys)
                if (claimed.id, claimed.curve25519) != (sender.id, sender.curve25519):
                    raise EnvelopeMismatch("sealed by another device")
            return unpad(payload.content.body)
        except (msgspec.MsgspecError, Malformed, UnverifiedDevice):
            raise EnvelopeMismatch("what is inside the seal has another shape") from None

    # --- records ----------------------------------------------------------------------------

    def take_changes(self) -> list[Change]:
        changes = [Change(key, self._record(key)) for key in sorted(self._changed)]
        for part in (self._trust, self._sessions):
            changes += [Change(key, part.record(key)) for key in sorted(part.changed)]
            part.changed.clear()
        self._changed.clear()
        return changes

    def _record(self, key: str) -> bytes | None:
        if key == "identity":
            return self._identity.dump() if self._identity else None
        pickle_key = self._random(32)
        return msgspec.msgpack.encode(
            _Account(
                pickle_key,
                self._account.pickle(pickle_key),
                self.kind,
                msgspec.json.encode(self._fallback),
                self._fallback_made_ms,
            )
        )

    def _make_device_keys(self) -> bytes:
        keys = self._signed(
            {
                "user_id": self.user,
                "device_id": self.device,
                "algorithms": [OLM_ALGORITHM],
                "keys": {
                    f"curve25519:{self.device}": self._curve25519,
                    f"ed25519:{self.device}": self._ed25519,
                },
                "angarium.kind": self.kind,
            }
        )
        if self._identity is not None:
            keys = self._identity.sign_device(keys)
        return msgspec.json.encode(keys)

    def _signed(self, signed: dict[str, Any]) -> dict[str, Any]:
        signature = self._account.sign(signed_bytes(signed)).to_base64()
        signed["signatures"] = {self.user: {f"ed25519:{self.device}": signature}}
        return signed
