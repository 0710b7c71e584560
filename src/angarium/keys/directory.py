"""The keys service: every signature is checked before a public key is stored or handed out.

Devices check again and never rely on this; it keeps mistakes and ghosts out early. Private keys
and plaintext never come here.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from angarium.bus.contract import Bus, DevicesChanged
from angarium.clock import Clock
from angarium.errors import Forbidden, Malformed, NotFound, Refused, TooLarge, UnverifiedDevice
from angarium.ids import DeviceId, UserId, check_device_id, check_user_id
from angarium.limits import (
    CLAIMS_PER_MINUTE,
    DEVICES_PER_USER_MAX,
    LIMITER_BUCKETS_MAX,
    ONE_TIME_KEYS_STORED_MAX,
    SIGNED_OBJECT_BYTES_MAX,
    USERS_PER_QUERY_MAX,
)
from angarium.model.device import Device, DeviceKind, DeviceList, IdentityKeys
from angarium.model.signatures import (
    PublicDevice,
    check_device_keys,
    check_identity,
    check_signed_key,
    decode_base64,
    is_cross_signed,
    signed_bytes,
)
from angarium.storage.contract import Directory

KEY_ALGORITHM = "signed_curve25519"
KEY_ID_CHARS_MAX = 64
UNSIGNED_FIELDS = ("signatures", "unsigned")
SIGNATURE_BYTES = 64
SIGNATURES_MAX = 8  # On one device, by its owner. More: Malformed.
_MINUTE_S = 60.0
_TOO_MANY_DEVICES = f"a user has at most {DEVICES_PER_USER_MAX} devices; remove one"


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What is stored after an upload; `changed` when keys or signatures are new."""

    device: DeviceId
    one_time_keys: int
    signed: bool
    changed: bool


class Keys:
    """Uploads, queries and claims of public keys, in the Matrix shapes."""

    def __init__(self, *, directory: Directory, bus: Bus, clock: Clock) -> None:
        self._directory, self._bus, self._clock = directory, bus, clock
        self._claims = ClaimRate(clock)

    async def upload(
        self,
        user: UserId,
        *,
        device_keys: Mapping[str, Any] | None = None,
        one_time_keys: Mapping[str, Any] | None = None,
        fallback_keys: Mapping[str, Any] | None = None,
        kind: DeviceKind | None = None,
        device: str = "",
    ) -> Uploaded:
        """Store a device and prekeys it signed; nothing is stored unless all of it is right.

        Without `device_keys` the keys belong to `device`, or to the device that signed them.
        Raises Malformed, UnverifiedDevice, Forbidden (another user's device, or other identity
        keys than before), NotFound (prekeys of an unknown device), Refused (too many).
        """
        prekeys = {**(one_time_keys or {}), **(fallback_keys or {})}
        known = await self._uploading(user, device_keys, device or signer_of(prekeys, user))
        public = check_device_keys(device_keys or (known.keys if known else {}))
        if public.user != user:
            raise Forbidden("these are another user's keys")
        one_time, fallback = (
            check_prekeys(one_time_keys or {}, public, is_fallback=False),
            check_prekeys(fallback_keys or {}, public, is_fallback=True),
        )
        if len(fallback) > 1:
            raise Malformed("a device has one fallback key")
        await self._check_room(user, public.id, known, len(one_time))
        stored = await self._store_device(user, public, device_keys, known, kind)
        count = await self._store_prekeys(public.id, one_time, fallback)
        return Uploaded(public.id, count, stored.signed, changed=stored != known)

    async def upload_identity(
        self,
        user: UserId,
        master: Mapping[str, Any],
        self_signing: Mapping[str, Any],
        *,
        may_replace: bool = False,
    ) -> None:
        """Store cross-signing keys and mark the devices they signed.

        Raises Forbidden when another master key is there and `may_replace` is false, Malformed,
        UnverifiedDevice.
        """
        identity = check_identity(master, self_signing)
        if identity.user != user:
            raise Forbidden("these are another user's keys")
        listed = await self._list(user)
        before = listed.identity if listed else None
        if before and not may_replace and master_of(before) != identity.master:
            raise Forbidden("another master key is published; re-authenticate to replace it")
        after = IdentityKeys(user, tidy(master), tidy(self_signing))
        if before != after:
            await self._directory.put_identity(after)
        for device in listed.devices if listed else ():
            signed = is_cross_signed(device.keys, self_signing)
            if signed != device.signed:
                await self._directory.put_device(replace(device, signed=signed))
        self._bus.publish([DevicesChanged(user)])

    async def upload_signatures(
        self, user: UserId, signed: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Merge signatures over the caller's own devices, made by another device of theirs.

        Raises Forbidden for another user's devices, NotFound, Malformed, UnverifiedDevice (the
        caller's self-signing key did not sign this).
        """
        if set(signed) != {user}:
            raise Forbidden("signatures are uploaded for one's own devices")
        listed = await self._list(user)
        identity = listed.identity if listed else None
        if listed is None or identity is None:
            raise NotFound("upload cross-signing keys first")
        devices = {str(device.id): device for device in listed.devices}
        changed = []
        for name, keys in signed[user].items():
            stored = devices.get(name)
            if stored is None or not isinstance(keys, Mapping):
                raise NotFound("one of the devices is not known")
            merged = merge_signatures(stored.keys, keys)
            check_device_keys(merged)
            if not is_cross_signed(merged, identity.self_signing):
                raise UnverifiedDevice("the self-signing key did not sign this device")
            changed.append(replace(stored, keys=merged, signed=True))
        for device in changed:
            await self._directory.put_device(device)
        self._bus.publish([DevicesChanged(user)])

    async def query(self, caller: UserId, users: Sequence[str]) -> dict[str, Any]:
        """The lists of these users, as far as they have one.

        Devices that are not cross-signed are shown to their owner only, who may sign them.
        """
        if len(users) > USERS_PER_QUERY_MAX:
            raise Malformed(f"ask for at most {USERS_PER_QUERY_MAX} users at once")
        lists = await self._directory.lists([check_user_id(user) for user in users])
        identities = {user: found.identity for user, found in lists.items() if found.identity}
        return {
            "device_keys": {
                user: {d.id: d.keys for d in found.devices if d.signed or user == caller}
                for user, found in lists.items()
            },
            "master_keys": {user: keys.master for user, keys in identities.items()},
            "self_signing_keys": {user: keys.self_signing for user, keys in identities.items()},
            "versions": {user: found.version for user, found in lists.items()},
        }

    async def claim(
        self, caller: UserId, wanted: Mapping[str, Mapping[str, str]]
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """One key of each device named: a one-time key, else the fallback key, else nothing.

        Over CLAIMS_PER_MINUTE for one target user the fallback key is given, so that nobody
        can use up another's one-time keys. Raises Malformed.
        """
        if sum(map(len, wanted.values())) > USERS_PER_QUERY_MAX:
            raise Malformed(f"claim for at most {USERS_PER_QUERY_MAX} devices at once")
        lists = await self._directory.lists([check_user_id(user) for user in wanted])
        taken: dict[str, dict[str, dict[str, Any]]] = {}
        for user, devices in wanted.items():
            listed = lists.get(UserId(user))
            signed = {d.id for d in listed.devices if d.signed} if listed else set()
            for name, algorithm in devices.items():
                if algorithm != KEY_ALGORITHM:
                    raise Malformed(f"keys are claimed as {KEY_ALGORITHM}")
                if name not in signed:
                    continue
                found = await self._directory.take_key(
                    DeviceId(name), fallback_only=self._claims.is_over(caller, user)
                )
                if found:
                    taken.setdefault(user, {})[name] = {found[0]: found[1]}
        return taken

    async def count(self, user: UserId, device: str) -> int:
        """Unclaimed one-time keys of one's own device. Raises NotFound."""
        await self._own(user, device)
        return await self._directory.count_one_time_keys(DeviceId(device))

    async def remove_device(self, user: UserId, device: str) -> None:
        """Forget one's own device and its keys. Raises NotFound."""
        await self._own(user, device)
        await self._directory.remove_device(user, DeviceId(device))
        self._bus.publish([DevicesChanged(user)])

    async def _own(self, user: UserId, device: str) -> Device:
        found = await self._directory.find_device(check_device_id(device))
        if found is None or found.user != user:
            raise NotFound("you have no such device")
        return found

    async def _list(self, user: UserId) -> DeviceList | None:
        return (await self._directory.lists([user])).get(user)

    async def _uploading(
        self, user: UserId, keys: Mapping[str, Any] | None, device: str
    ) -> Device | None:
        name = keys.get("device_id", "") if keys else device
        if not isinstance(name, str):
            raise Malformed("`device_id` is missing")
        found = await self._directory.find_device(check_device_id(name))
        if found and found.user != user:
            raise Forbidden("this device id belongs to another user")
        if found is None and not keys:
            raise NotFound("upload the device's keys first")
        return found

    async def _check_room(
        self, user: UserId, device: DeviceId, known: Device | None, added: int
    ) -> None:
        if known is None and await self._count_devices(user) >= DEVICES_PER_USER_MAX:
            raise Refused(_TOO_MANY_DEVICES)
        stored = await self._directory.count_one_time_keys(device) if added and known else 0
        if stored + added > ONE_TIME_KEYS_STORED_MAX:
            raise Refused(f"a device keeps at most {ONE_TIME_KEYS_STORED_MAX} one-time keys")

    async def _store_device(
        self,
        user: UserId,
        public: PublicDevice,
        keys: Mapping[str, Any] | None,
        known: Device | None,
        kind: DeviceKind | None,
    ) -> Device:
        if known and not keys:
            return known
        body = merge_signatures(known.keys if known else {}, keys or {})
        listed = await self._list(user)
        identity = listed.identity if listed else None
        device = Device(
            user=user,
            id=public.id,
            kind=kind or (known.kind if known else "sdk"),
            keys=body,
            signed=identity is not None and is_cross_signed(body, identity.self_signing),
            created_ms=known.created_ms if known else self._clock.now_ms(),
        )
        if device != known:
            await self._directory.put_device(device)
            self._bus.publish([DevicesChanged(user)])
        if known is None and await self._count_devices(user) > DEVICES_PER_USER_MAX:
            # Others were added since `_check_room` looked.
            await self.remove_device(user, device.id)
            raise Refused(_TOO_MANY_DEVICES)
        return device

    async def _count_devices(self, user: UserId) -> int:
        listed = await self._list(user)
        return len(listed.devices) if listed else 0

    async def _store_prekeys(
        self,
        device: DeviceId,
        one_time: Mapping[str, dict[str, Any]],
        fallback: Mapping[str, dict[str, Any]],
    ) -> int:
        for key_id, key in fallback.items():
            await self._directory.put_fallback_key(device, key_id, key)
        if one_time:
            return await self._directory.put_one_time_keys(device, one_time)
        return await self._directory.count_one_time_keys(device)


class ClaimRate:
    """Claims per (claimer, target) within a minute; forgets the pair unused longest."""

    def __init__(self, clock: Clock, per_minute: int = CLAIMS_PER_MINUTE) -> None:
        self._clock, self._per_minute = clock, per_minute
        self._windows: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def is_over(self, claimer: str, target: str) -> bool:
        """Count one claim; whether it is over the rate."""
        now_s = self._clock.monotonic_s()
        since_s, count = self._windows.pop((claimer, target), (now_s, 0))
        if now_s - since_s >= _MINUTE_S:
            since_s, count = now_s, 0
        self._windows[claimer, target] = (since_s, count + 1)
        if len(self._windows) > LIMITER_BUCKETS_MAX:
            self._windows.popitem(last=False)
        return count + 1 > self._per_minute


def check_prekeys(
    keys: Mapping[str, Any], device: PublicDevice, *, is_fallback: bool
) -> dict[str, dict[str, Any]]:
    """The prekeys that `device` signed, by id. Raises Malformed, UnverifiedDevice."""
    if len(keys) > ONE_TIME_KEYS_STORED_MAX:
        raise Refused(f"a device keeps at most {ONE_TIME_KEYS_STORED_MAX} one-time keys")
    for key_id, key in keys.items():
        algorithm, _, name = key_id.partition(":")
        if algorithm != KEY_ALGORITHM or not 0 < len(name) <= KEY_ID_CHARS_MAX:
            raise Malformed(f"a key is named {KEY_ALGORITHM}:ID")
        check_signed_key(key, device)
        if bool(key.get("fallback")) is not is_fallback:
            raise Malformed("fallback keys, and only they, are marked as such")
    return {key_id: tidy(key, device.user) for key_id, key in keys.items()}


def signer_of(prekeys: Mapping[str, Any], user: UserId) -> str:
    """The device that the first prekey claims to be signed by; "" when none says so."""
    for key in prekeys.values():
        signatures = key.get("signatures") if isinstance(key, Mapping) else None
        own = signatures.get(user) if isinstance(signatures, Mapping) else None
        for name in own if isinstance(own, Mapping) else ():
            return str(name).partition(":")[2]
    return ""


def master_of(identity: IdentityKeys) -> str:
    """The public master key."""
    return check_identity(identity.master, identity.self_signing).master


def merge_signatures(stored: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new object, with the owner's stored signatures kept where both sign the same bytes.

    Raises Malformed, TooLarge.
    """
    tidied = tidy(new)
    if signed_bytes(stored) != signed_bytes(new):
        return tidied
    user = str(new.get("user_id"))
    made = _mapping(_mapping(tidied.get("signatures")).get(user))
    kept = {**_mapping(_mapping(stored.get("signatures")).get(user)), **made}
    # Too many have gathered (replaced identities): only what was sent now counts.
    return {**tidied, "signatures": {user: kept if len(kept) <= SIGNATURES_MAX else made}}


def tidy(signed: Mapping[str, Any], user: str = "") -> dict[str, Any]:
    """What is worth keeping of a checked object: what is signed, and its owner's signatures.

    The rest is covered by no signature: nobody reads it, and anybody could fill it. Raises
    Malformed, TooLarge.
    """
    user = user or str(signed.get("user_id"))
    own = _mapping(_mapping(signed.get("signatures")).get(user))
    made = {name: each for name, each in own.items() if is_signature(each)}
    if len(made) > SIGNATURES_MAX:
        raise Malformed(f"a key carries at most {SIGNATURES_MAX} signatures")
    if len(signed_bytes(signed)) > SIGNED_OBJECT_BYTES_MAX:
        raise TooLarge(f"public keys have at most {SIGNED_OBJECT_BYTES_MAX} bytes")
    kept = {name: value for name, value in signed.items() if name not in UNSIGNED_FIELDS}
    return {**kept, "signatures": {user: made}} if made else kept


def is_signature(value: Any) -> bool:
    try:
        decode_base64(value, SIGNATURE_BYTES)
    except Malformed:
        return False
    return True


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}
