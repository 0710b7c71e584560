"""A further device of a user: shown to the earlier ones, compared by a person, signed.

The server cannot link a device by itself: only a device that holds the self-signing key can,
and senders seal for signed devices only.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from angarium.errors import NotFound, UnverifiedDevice
from angarium.ids import DeviceId, UserId
from angarium.model.signatures import check_device_keys, is_cross_signed
from angarium.sdk.api import Api

_DIGITS = 30


class SigningEngine(Protocol):
    """The part of an engine that can link."""

    def sign_device(self, device_keys: dict[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class UnlinkedDevice:
    """A device that says it is the user's and that nobody signed yet."""

    id: DeviceId
    fingerprint: str
    keys: dict[str, Any]


def fingerprint(device_keys: Mapping[str, Any]) -> str:
    """Thirty digits in groups of five over both identity keys; to be compared by a person.

    Raises Malformed, UnverifiedDevice when the keys are not signed by themselves.
    """
    device = check_device_keys(device_keys)
    name = f"angarium device\x00{device.user}\x00{device.id}\x00"
    keys = f"{device.ed25519}\x00{device.curve25519}"
    digest = hashlib.sha512((name + keys).encode()).digest()
    digits = str(int.from_bytes(digest, "big"))[-_DIGITS:]
    return " ".join(digits[start : start + 5] for start in range(0, _DIGITS, 5))


async def unlinked_devices(api: Api, user: UserId) -> Sequence[UnlinkedDevice]:
    """The user's devices that wait for a signature. Raises what the API raises."""
    lists = await api.query_keys([user])
    self_signing = lists.get("self_signing_keys", {}).get(user)
    if self_signing is None:
        return ()
    return [
        UnlinkedDevice(DeviceId(name), fingerprint(keys), keys)
        for name, keys in sorted(lists.get("device_keys", {}).get(user, {}).items())
        if not is_cross_signed(keys, self_signing)
    ]


async def link(
    api: Api, engine: SigningEngine, user: UserId, device: str, compared: str
) -> None:
    """Sign `device` if its fingerprint is the one a person `compared` on its screen.

    Raises NotFound, UnverifiedDevice (another fingerprint, or this device may not sign).
    """
    for waiting in await unlinked_devices(api, user):
        if waiting.id == device:
            if not hmac.compare_digest(_plain(waiting.fingerprint), _plain(compared)):
                raise UnverifiedDevice("the fingerprints differ: do not link this device")
            signed = engine.sign_device(waiting.keys)
            await api.upload_signatures({user: {device: signed}})
            return
    raise NotFound("no device of that name waits to be linked")


def _plain(digits: str) -> str:
    return "".join(digits.split())
