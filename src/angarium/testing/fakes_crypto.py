"""A `CryptoEngine` that is quick and keeps a record of its ratchet, for simulations only.

Identities, device lists and their checks are the product's own. What differs is the ratchet: a
session's secret is fixed and only a counter moves (no forward secrecy), so sealing costs
microseconds. The counter stands in the ciphertext: a `Witness` of the wire can tell when
one step was used for two messages: the mistake that state lost in a crash leads to.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from angarium.clock import Clock
from angarium.e2ee.engine import Change, Roster, TrustedDevice
from angarium.e2ee.identity import Identity
from angarium.e2ee.trust import Trust
from angarium.errors import Replayed, SealBroken, TooLarge, Undecryptable, UnverifiedDevice
from angarium.ids import DeviceId, RandomBytes, UserId
from angarium.limits import PLAINTEXT_BYTES_MAX
from angarium.model.device import DeviceKind
from angarium.model.signatures import (
    OLM_ALGORITHM,
    decode_base64,
    encode_base64,
    signed_bytes,
)

_MARK = 0x7F  # No product ciphertext starts with it.
_KEY_ID_BYTES = 8
_HEADER_BYTES = 1 + _KEY_ID_BYTES + 8


class _Account(msgspec.Struct, array_like=True):
    signing: bytes
    exchange: bytes
    kind: str
    one_time: dict[bytes, bytes]  # key id -> value
    fallback: dict[bytes, bytes]


class _Sending(msgspec.Struct, array_like=True):
    key_id: bytes
    secret: bytes
    used: int = 0


class _Receiving(msgspec.Struct, array_like=True):
    secret: bytes
    high: int = 0
    missing: list[int] = []


class FastEngine:
    """Implements `CryptoEngine`. Made like `OlmEngine`: `create`, `create_device`, `load`."""

    def __init__(
        self,
        user: UserId,
        device: DeviceId,
        account: _Account,
        identity: Identity | None,
        random: RandomBytes,
    ) -> None:
        self.user, self.device = user, device
        self._account, self._identity, self._random = account, identity, random
        self._exchange = X25519PrivateKey.from_private_bytes(account.exchange)
        self._signing = Ed25519PrivateKey.from_private_bytes(account.signing)
        own = TrustedDevice(
            user,
            device,
            encode_base64(self._exchange.public_key().public_bytes_raw()),
            encode_base64(self._signing.public_key().public_bytes_raw()),
        )
        self._own, self._trust = own, Trust(own)
        self._sending: dict[str, _Sending] = {}
        self._receiving: dict[str, _Receiving] = {}
        self._changed: set[str] = set()
        self._device_keys = b""  # Signed at first use.

    @classmethod
    def create(
        cls,
        user: UserId,
        device: DeviceId,
        *,
        kind: DeviceKind,
        clock: Clock,
        random: RandomBytes = secrets.token_bytes,
    ) -> "FastEngine":
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
    ) -> "FastEngine":
        """A further device, signed with `identity` when it is given."""
        account = _Account(random(32), random(32), kind, {}, {})
        engine = cls(user, device, account, identity, random)
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
    ) -> "FastEngine":
        """The engine as it was when `take_changes` gave these records. Raises SealBroken."""
        try:
            account = msgspec.msgpack.decode(records["account"], type=_Account)
            identity = Identity.load(records["identity"]) if "identity" in records else None
            engine = cls(user, device, account, identity, random)
            for key, record in records.items():
                engine._take_record(key, record)
        except (KeyError, ValueError, msgspec.MsgspecError):
            raise SealBroken("a record of the device does not open") from None
        return engine

    def _take_record(self, key: str, record: bytes) -> None:
        if key.startswith(("pins/", "known/")):
            self._trust.load(key, record)
        elif key.startswith("sending/"):
            self._sending[key] = msgspec.msgpack.decode(record, type=_Sending)
        elif key.startswith("receiving/"):
            self._receiving[key] = msgspec.msgpack.decode(record, type=_Receiving)

    # --- keys -------------------------------------------------------------------------------

    def device_keys(self) -> dict[str, Any]:
        if not self._device_keys:
            self._device_keys = self._make_device_keys()
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

    def make_prekeys(self, one_time: int, fallback: bool) -> dict[str, Any]:
        """As in the contract, but the keys are not signed: the static exchange of the two
        devices goes into every secret, so a swapped key only makes a session that fails."""
        fresh = {self._random(_KEY_ID_BYTES): self._random(16) for _ in range(one_time)}
        self._account.one_time.update(fresh)
        if fallback and not self._account.fallback:
            self._account.fallback = {self._random(_KEY_ID_BYTES): self._random(16)}
        self._changed.add("account")
        return {
            "one_time_keys": {_name(key_id): _public(key) for key_id, key in fresh.items()},
            "fallback_keys": {
                _name(key_id): {**_public(key), "fallback": True}
                for key_id, key in (self._account.fallback if fallback else {}).items()
            },
        }

    # --- trust ------------------------------------------------------------------------------

    def learn(self, lists: Mapping[str, Any]) -> None:
        self._trust.learn(lists)

    def accept_identity(self, user: UserId) -> None:
        self._trust.accept(user)

    def is_verified(self, user: UserId) -> bool:
        return self._trust.is_verified(user)

    def devices(self, users: Sequence[UserId]) -> list[TrustedDevice]:
        return self._trust.devices(users)

    def roster(self, users: Sequence[UserId]) -> Roster:
        return self._trust.roster(users)

    def safety_number(self, other: UserId) -> str:
        """Not the product's number: the slow search for it has no place here."""
        keys = sorted((self._trust.master(self.user), self._trust.master(other)))
        digits = int.from_bytes(hashlib.sha256("".join(keys).encode()).digest(), "big")
        text = f"{digits % 10**60:060d}"
        return " ".join(text[start : start + 5] for start in range(0, 60, 5))

    # --- sessions ---------------------------------------------------------------------------

    def without_session(self, devices: Sequence[TrustedDevice]) -> list[TrustedDevice]:
        return [device for device in devices if f"sending/{device.id}" not in self._sending]

    def start_sessions(self, claimed: Mapping[str, Any]) -> list[DeviceId]:
        started: list[DeviceId] = []
        for user, by_device in claimed.items():
            for device_id, keys in (by_device or {}).items():
                device = self._trust.find(UserId(user), DeviceId(device_id))
                if device is None or not self._trust.is_current(device) or not keys:
                    continue
                name, key = next(iter(keys.items()))
                key_id = bytes.fromhex(name.partition(":")[2])
                secret = self._secret(device, self._own, device, decode_base64(key["key"]))
                self._sending[f"sending/{device.id}"] = _Sending(key_id, secret)
                self._changed.add(f"sending/{device.id}")
                started.append(device.id)
        return started

    def seal(self, device: TrustedDevice, plaintext: bytes) -> bytes:
        session = self._sending.get(f"sending/{device.id}")
        if not self._trust.is_current(device):
            raise UnverifiedDevice("this device is not trusted")
        if session is None:
            raise Undecryptable("there is no session with this device")
        if len(plaintext) > PLAINTEXT_BYTES_MAX:
            raise TooLarge(f"at most {PLAINTEXT_BYTES_MAX} bytes are sealed at once")
        session.used += 1
        self._changed.add(f"sending/{device.id}")
        header = bytes((_MARK,)) + session.key_id + session.used.to_bytes(8, "big")
        place = _place(self._own, device)
        nonce = session.used.to_bytes(12, "big")
        return header + AESGCM(session.secret).encrypt(nonce, plaintext, header + place)

    def unseal(self, sender: UserId, device: DeviceId, ciphertext: bytes) -> bytes:
        author = self._trust.find(sender, device)
        if author is None:
            raise UnverifiedDevice("the sender's device is not trusted")
        if len(ciphertext) <= _HEADER_BYTES or ciphertext[0] != _MARK:
            raise Undecryptable("not a ciphertext of this engine")
        header, sealed = ciphertext[:_HEADER_BYTES], ciphertext[_HEADER_BYTES:]
        key_id = header[1 : 1 + _KEY_ID_BYTES]
        step = int.from_bytes(header[1 + _KEY_ID_BYTES :], "big")
        name = f"receiving/{device}/{key_id.hex()}"
        session = self._receiving.get(name) or self._open_first(author, key_id)
        if step <= session.high and step not in session.missing:
            raise Replayed("this ciphertext was opened before")
        try:
            plaintext = AESGCM(session.secret).decrypt(
                step.to_bytes(12, "big"), sealed, header + _place(author, self._own)
            )
        except InvalidTag:
            raise Undecryptable("no session opens this ciphertext") from None
        self._step(name, session, key_id, step)
        return plaintext

    def _step(self, name: str, session: _Receiving, key_id: bytes, step: int) -> None:
        if step > session.high:
            skipped = [*session.missing, *range(session.high + 1, step)]
            session.high, session.missing = step, skipped[-64:]
        else:
            session.missing = [missing for missing in session.missing if missing != step]
        self._receiving[name] = session
        self._changed.add(name)
        if self._account.one_time.pop(key_id, None) is not None:
            self._changed.add("account")

    def _open_first(self, author: TrustedDevice, key_id: bytes) -> _Receiving:
        key = self._account.one_time.get(key_id) or self._account.fallback.get(key_id)
        if key is None:
            raise Undecryptable("no session opens this ciphertext")
        return _Receiving(self._secret(author, author, self._own, key))

    def _secret(
        self, peer: TrustedDevice, sender: TrustedDevice, recipient: TrustedDevice, key: bytes
    ) -> bytes:
        public = X25519PublicKey.from_public_bytes(decode_base64(peer.curve25519, 32))
        shared = self._exchange.exchange(public)
        return hashlib.sha256(shared + key + _place(sender, recipient)).digest()

    # --- records ----------------------------------------------------------------------------

    def take_changes(self) -> list[Change]:
        changes = [Change(key, self._record(key)) for key in sorted(self._changed)]
        changes += [Change(key, self._trust.record(key)) for key in sorted(self._trust.changed)]
        self._changed.clear()
        self._trust.changed.clear()
        return changes

    def _record(self, key: str) -> bytes | None:
        if key == "identity":
            return self._identity.dump() if self._identity else None
        held: Any = self._account
        if key != "account":
            held = self._sending.get(key) or self._receiving.get(key)
        return msgspec.msgpack.encode(held)

    def _make_device_keys(self) -> bytes:
        keys: dict[str, Any] = {
            "user_id": self.user,
            "device_id": self.device,
            "algorithms": [OLM_ALGORITHM],
            "keys": {
                f"curve25519:{self.device}": self._own.curve25519,
                f"ed25519:{self.device}": self._own.ed25519,
            },
            "angarium.kind": self._account.kind,
        }
        signature = encode_base64(self._signing.sign(signed_bytes(keys)))
        keys["signatures"] = {self.user: {f"ed25519:{self.device}": signature}}
        if self._identity is not None:
            keys = self._identity.sign_device(keys)
        return msgspec.json.encode(keys)


class Witness:
    """Sees every ciphertext on the wire and remembers which ratchet step made it."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str, bytes], bytes] = {}

    def reused(self, sender: str, recipient: str, ciphertext: bytes) -> bool:
        """Whether this step of this session was seen before with another content."""
        if len(ciphertext) <= _HEADER_BYTES or ciphertext[0] != _MARK:
            return False
        step = (sender, recipient, ciphertext[:_HEADER_BYTES])
        digest = hashlib.sha256(ciphertext).digest()
        return self._steps.setdefault(step, digest) != digest


def _place(sender: TrustedDevice, recipient: TrustedDevice) -> bytes:
    return "|".join((sender.user, sender.id, recipient.user, recipient.id)).encode()


def _name(key_id: bytes) -> str:
    return f"signed_curve25519:{key_id.hex()}"


def _public(key: bytes) -> dict[str, Any]:
    return {"key": encode_base64(key), "signatures": {}}
