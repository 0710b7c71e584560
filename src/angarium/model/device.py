"""Devices and the public keys a user publishes (bodies shaped as in Matrix)."""

from dataclasses import dataclass
from typing import Any, Literal

from angarium.ids import DeviceId, UserId

DeviceKind = Literal["web", "sdk", "gateway", "bridge"]


@dataclass(frozen=True, slots=True)
class Device:
    """One installation. `keys` is the self-signed `device_keys` object.

    `signed` is true once the owner's self-signing key has signed it; only signed devices are
    listed to senders and receive anything.
    """

    user: UserId
    id: DeviceId
    kind: DeviceKind
    keys: dict[str, Any]
    signed: bool
    created_ms: int


@dataclass(frozen=True, slots=True)
class IdentityKeys:
    """A user's cross-signing public keys: master and the self-signing key it signed."""

    user: UserId
    master: dict[str, Any]
    self_signing: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeviceList:
    """What `keys/query` answers about one user. `version` grows with each change."""

    user: UserId
    version: int
    identity: IdentityKeys | None
    devices: tuple[Device, ...]
