"""Which devices are trusted: pinned master keys and the device lists they vouch for.

No private key is here. Pins and lists are records like ratchets are: a device that forgot them
would believe the next server's first answer.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from angarium.e2ee.engine import Roster, TrustedDevice
from angarium.errors import IdentityChanged, Malformed, UnverifiedDevice
from angarium.ids import DeviceId, UserId
from angarium.limits import DEVICES_PER_USER_MAX, FORMER_DEVICES_MAX
from angarium.model.signatures import check_device_keys, check_identity, is_cross_signed

_LISTED_MAX = 4 * DEVICES_PER_USER_MAX  # More entries of one user are not even looked at.


class _Pin(msgspec.Struct, array_like=True):
    master: str
    verified: bool = False
    pending: str = ""  # a different master key, seen and not accepted


class _Listed(msgspec.Struct, array_like=True, frozen=True):
    id: str
    curve25519: str
    ed25519: str


class _Known(msgspec.Struct, array_like=True):
    digest: bytes = b""  # of the answer this came from, so that the same one costs nothing
    current: list[_Listed] = []
    former: list[_Listed] = []


class Trust:
    """What one device believes about users and devices. `changed` names records to store."""

    def __init__(self, own: TrustedDevice) -> None:
        self._own = own
        self._pins: dict[str, _Pin] = {}
        self._known: dict[str, _Known] = {}
        self.changed: set[str] = set()

    def load(self, key: str, record: bytes) -> None:
        """Take in a record under `pins/<user>` or `known/<user>`."""
        part, _, user = key.partition("/")
        if part == "pins":
            self._pins[user] = msgspec.msgpack.decode(record, type=_Pin)
        else:
            self._known[user] = msgspec.msgpack.decode(record, type=_Known)

    def record(self, key: str) -> bytes | None:
        """The record to store under `key`; None: forget it."""
        part, _, user = key.partition("/")
        found = self._pins.get(user) if part == "pins" else self._known.get(user)
        return None if found is None else msgspec.msgpack.encode(found)

    def learn(self, lists: Mapping[str, Any]) -> None:
        """As in `CryptoEngine.learn`: everybody's answer is looked at before it raises."""
        masters, self_signings, devices = (
            _mapping(lists.get(name))
            for name in ("master_keys", "self_signing_keys", "device_keys")
        )
        doubtful = [
            user
            for user, master in masters.items()
            if not self._learn_user(
                user,
                _mapping(master),
                _mapping(self_signings.get(user)),
                _mapping(devices.get(user)),
            )
        ]
        if doubtful:
            raise IdentityChanged("a user's master key changed; compare safety numbers")

    def pin(self, user: UserId, master: str) -> None:
        """Pin a master key without asking: this user's own, made here or brought along."""
        self._pins[user] = _Pin(master, verified=True)
        self.changed.add(f"pins/{user}")

    def accept(self, user: UserId) -> None:
        """Pin the newest master key seen. What the old one vouched for is trusted no more.

        Raises UnverifiedDevice when nothing is known of the user.
        """
        pin = self._pins.get(user)
        if pin is None:
            raise UnverifiedDevice("nothing is known of this user")
        if pin.pending:
            self._known.pop(user, None)
            self.changed.add(f"known/{user}")
        self._pins[user] = _Pin(pin.pending or pin.master, verified=True)
        self.changed.add(f"pins/{user}")

    def master(self, user: UserId) -> str:
        """The newest master key seen of the user. Raises UnverifiedDevice."""
        pin = self._pins.get(user)
        if pin is None:
            raise UnverifiedDevice("nothing is known of this user")
        return pin.pending or pin.master

    def is_verified(self, user: UserId) -> bool:
        """Whether a person compared safety numbers, and nothing changed since."""
        pin = self._pins.get(user)
        return pin is not None and pin.verified and not pin.pending

    def devices(self, users: Sequence[UserId]) -> list[TrustedDevice]:
        """As in `CryptoEngine.devices`. Raises IdentityChanged."""
        if any(self._pins[user].pending for user in users if user in self._pins):
            raise IdentityChanged("a user's master key changed; compare safety numbers")
        return sorted(
            (device for user in set(users) for device in self._current(user)), key=_by_id
        )

    def roster(self, users: Sequence[UserId]) -> Roster:
        """As in `CryptoEngine.roster`."""
        everyone = set(users)
        current = [device for user in everyone for device in self._current(user)]
        if self._own.user in everyone:
            current.append(self._own)
        former = [
            _trusted(user, listed)
            for user in everyone
            for listed in self._known.get(user, _Known()).former
        ]
        return Roster(tuple(sorted(current, key=_by_id)), tuple(sorted(former, key=_by_id)))

    def is_current(self, device: TrustedDevice) -> bool:
        return device in self._current(device.user)

    def find(self, user: UserId, device: DeviceId) -> TrustedDevice | None:
        """A device trusted now, or before it was removed: messages may be on their way."""
        known = self._known.get(user, _Known())
        for listed in (*known.current, *known.former):
            if listed.id == device:
                return _trusted(user, listed)
        return None

    def _current(self, user: str) -> Iterator[TrustedDevice]:
        return (_trusted(user, listed) for listed in self._known.get(user, _Known()).current)

    def _learn_user(
        self,
        user: str,
        master: Mapping[str, Any],
        self_signing: Mapping[str, Any],
        devices: Mapping[str, Any],
    ) -> bool:
        """False: this user's identity is in doubt."""
        try:
            identity = check_identity(master, self_signing)
        except (Malformed, UnverifiedDevice):
            return True
        if identity.user != user or not self._is_pinned(user, identity.master):
            return identity.user != user
        digest = _digest(self_signing, devices)
        known = self._known.get(user, _Known())
        if known.digest != digest:
            listed = self._check_listed(user, self_signing, devices, known)
            self._known[user] = _replaced(known, listed, digest)
            self.changed.add(f"known/{user}")
        return True

    def _is_pinned(self, user: str, master: str) -> bool:
        pin = self._pins.get(user)
        if pin is None:
            self._pins[user] = _Pin(master)
        elif pin.master != master:
            if pin.pending == master:
                return False
            pin.pending = master
        elif pin.pending:
            pin.pending = ""
        else:
            return True
        self.changed.add(f"pins/{user}")
        return self._pins[user].pending == ""

    def _check_listed(
        self,
        user: str,
        self_signing: Mapping[str, Any],
        devices: Mapping[str, Any],
        known: _Known,
    ) -> list[_Listed]:
        before = {listed.id: listed for listed in (*known.current, *known.former)}
        trusted: list[_Listed] = []
        for name in sorted(devices, key=str)[:_LISTED_MAX]:
            try:
                device = check_device_keys(devices[name])
            except (Malformed, UnverifiedDevice):
                continue
            if (device.user, device.id) != (user, name) or device.id == self._own.id:
                continue
            listed = _Listed(device.id, device.curve25519, device.ed25519)
            # A device's keys never change: other keys under a known id are a ghost's.
            if before.get(device.id, listed) != listed:
                continue
            if is_cross_signed(devices[name], self_signing):
                trusted.append(listed)
        return trusted[:DEVICES_PER_USER_MAX]


def _replaced(known: _Known, listed: list[_Listed], digest: bytes) -> _Known:
    former = [one for one in (*known.former, *known.current) if one not in listed]
    return _Known(digest, listed, former[-FORMER_DEVICES_MAX:])


def _digest(self_signing: Mapping[str, Any], devices: Mapping[str, Any]) -> bytes:
    try:
        return hashlib.sha256(
            msgspec.json.encode([self_signing, devices], order="sorted")
        ).digest()
    except (TypeError, ValueError):
        return b""


def _trusted(user: str, listed: _Listed) -> TrustedDevice:
    return TrustedDevice(UserId(user), DeviceId(listed.id), listed.curve25519, listed.ed25519)


def _by_id(device: TrustedDevice) -> str:
    return device.id


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
