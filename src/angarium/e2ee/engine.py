"""The contract of an end-to-end encryption engine: vodozemac here, OlmMachine in the browser.

An engine holds one device's private keys and sessions in memory. It does no IO: bodies to
upload and answers to take in are JSON-compatible objects in the Matrix shapes, so that any
Matrix crypto library fits; private state leaves only through `take_changes`, for the caller to
seal and store BEFORE anything that depends on it leaves the process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from angarium.ids import DeviceId, UserId


@dataclass(frozen=True, slots=True)
class TrustedDevice:
    """A device whose keys are signed by itself and by its owner's self-signing key, which the
    owner's pinned master key signed."""

    user: UserId
    id: DeviceId
    curve25519: str
    ed25519: str


@dataclass(frozen=True, slots=True)
class Roster:
    """Every trusted device of some users, this one included, each sorted by id.

    `current` is what a message is sealed for (but for this device); `former` were trusted and
    are listed no more: messages on their way when a device was removed still name them.
    """

    current: tuple[TrustedDevice, ...]
    former: tuple[TrustedDevice, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A private record to persist under `key`; None: forget it. Plain: the caller seals it."""

    key: str
    value: bytes | None


class CryptoEngine(Protocol):
    """One device. Not safe for concurrent use; calls are short and synchronous."""

    user: UserId
    device: DeviceId

    def device_keys(self) -> dict[str, Any]:
        """The self-signed `device_keys` object, cross-signed by the owner's self-signing key
        when this device holds it."""
        ...

    def identity_keys(self) -> dict[str, Any] | None:
        """{"master_key": ..., "self_signing_key": ...} when this device made the identity."""
        ...

    def make_prekeys(self, one_time: int, fallback: bool) -> dict[str, Any]:
        """{"one_time_keys": {...}, "fallback_keys": {...}}: new signed keys to upload.

        Persist the changes before uploading, so that no key is published that a crash forgets.
        """
        ...

    def learn(self, lists: Mapping[str, Any]) -> None:
        """Take in a keys/query answer: {"device_keys": {user: {device: ...}}, "master_keys":
        {user: ...}, "self_signing_keys": {user: ...}}.

        Devices that are not properly signed are ignored (never an error: a server may list
        ghosts). A user's master key is pinned at first sight. Raises IdentityChanged when it
        differs from the pinned one; nothing of that user is replaced then.
        """
        ...

    def accept_identity(self, user: UserId) -> None:
        """A person compared safety numbers: pin the newest master key seen, as verified."""
        ...

    def devices(self, users: Sequence[UserId]) -> list[TrustedDevice]:
        """Every trusted device of these users, this one excluded, sorted by id.

        Raises IdentityChanged while a changed master key of one of them waits for
        `accept_identity`: nothing is sealed for a user whose identity is in doubt.
        """
        ...

    def roster(self, users: Sequence[UserId]) -> Roster:
        """Who a message among these users is sealed for, for `envelope.Chain`. Never raises."""
        ...

    def without_session(self, devices: Sequence[TrustedDevice]) -> list[TrustedDevice]:
        """Those for which a one-time key must be claimed before sealing."""
        ...

    def start_sessions(self, claimed: Mapping[str, Any]) -> list[DeviceId]:
        """Take in a keys/claim answer {user: {device: {key_id: key}}}; returns the devices that
        have a session now. A key with a wrong signature starts nothing."""
        ...

    def seal(self, device: TrustedDevice, plaintext: bytes) -> bytes:
        """A ciphertext for that device; the ratchet has moved on.

        Raises Undecryptable when there is no session, UnverifiedDevice when the device is not
        trusted now, TooLarge.
        """
        ...

    def unseal(self, sender: UserId, device: DeviceId, ciphertext: bytes) -> bytes:
        """The plaintext, if it was sealed by that trusted device for this one.

        Raises UnverifiedDevice, Undecryptable, Replayed, EnvelopeMismatch. On any error the
        state is as before.
        """
        ...

    def safety_number(self, other: UserId) -> str:
        """60 digits in groups of five, equal on both sides.

        Raises UnverifiedDevice when nothing is known of that user.
        """
        ...

    def take_changes(self) -> list[Change]:
        """Private records changed since the last call, each once; the caller persists them."""
        ...
