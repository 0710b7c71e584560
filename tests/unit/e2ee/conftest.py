"""A key directory in memory, and devices that live on their stored records only."""

from collections.abc import Callable
from typing import Any

import pytest

from angarium.clock import ManualClock
from angarium.e2ee.engine import TrustedDevice
from angarium.e2ee.identity import Identity
from angarium.e2ee.olm import OlmEngine
from angarium.ids import DeviceId, UserId


class Installation:
    """An engine and what it has stored. `restart` forgets everything that was not."""

    def __init__(self, engine: OlmEngine, clock: ManualClock) -> None:
        self.engine, self._clock = engine, clock
        self.records: dict[str, bytes] = {}
        self.save()

    @property
    def user(self) -> UserId:
        return self.engine.user

    @property
    def id(self) -> DeviceId:
        return self.engine.device

    def save(self) -> None:
        for change in self.engine.take_changes():
            if change.value is None:
                self.records.pop(change.key, None)
            else:
                self.records[change.key] = change.value

    def restart(self) -> None:
        self.engine = OlmEngine.load(self.user, self.id, self.records, clock=self._clock)


class KeyDirectory:
    """What the keys service answers; a test may spoil it as a bad server would."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.device_keys: dict[str, dict[str, Any]] = {}
        self.master_keys: dict[str, Any] = {}
        self.self_signing_keys: dict[str, Any] = {}
        self.one_time: dict[str, list[tuple[str, Any]]] = {}
        self.fallback: dict[str, tuple[str, Any]] = {}

    def new_device(
        self, user: str, device: str, identity: Identity | None = None, one_time: int = 5
    ) -> Installation:
        make: Callable[..., OlmEngine] = OlmEngine.create
        known: dict[str, Any] = {}
        if identity is not None:
            make, known = OlmEngine.create_device, {"identity": identity}
        engine = make(UserId(user), DeviceId(device), kind="sdk", clock=self.clock, **known)
        installation = Installation(engine, self.clock)
        self.publish(installation, one_time)
        return installation

    def publish(self, device: Installation, one_time: int = 5) -> None:
        keys = device.engine.make_prekeys(one_time, fallback=True)
        device.save()
        self.device_keys.setdefault(device.user, {})[device.id] = device.engine.device_keys()
        identity = device.engine.identity_keys()
        if identity is not None:
            self.master_keys[device.user] = identity["master_key"]
            self.self_signing_keys[device.user] = identity["self_signing_key"]
        self.one_time.setdefault(device.id, []).extend(keys["one_time_keys"].items())
        self.fallback[device.id] = next(iter(keys["fallback_keys"].items()))

    def lists(self) -> dict[str, Any]:
        return {
            "device_keys": self.device_keys,
            "master_keys": self.master_keys,
            "self_signing_keys": self.self_signing_keys,
        }

    def claim(self, device: TrustedDevice) -> dict[str, Any]:
        stored = self.one_time[device.id]
        key_id, key = stored.pop(0) if stored else self.fallback[device.id]
        return {device.user: {device.id: {key_id: key}}}

    def seal(self, sender: Installation, receiver: Installation, plaintext: bytes) -> bytes:
        """As an endpoint does it: learn, claim what is missing, seal, store, hand over."""
        sender.engine.learn(self.lists())
        devices = sender.engine.devices([receiver.user])
        (device,) = [device for device in devices if device.id == receiver.id]
        for missing in sender.engine.without_session([device]):
            sender.engine.start_sessions(self.claim(missing))
        ciphertext = sender.engine.seal(device, plaintext)
        sender.save()
        return ciphertext

    def seal_unstored(self, sender: Installation, receiver: Installation) -> None:
        """A crash between sealing and storing: the ciphertext never leaves."""
        (device,) = [
            device
            for device in sender.engine.devices([receiver.user])
            if device.id == receiver.id
        ]
        sender.engine.seal(device, b"never sent")
        sender.restart()

    def unseal(self, receiver: Installation, sender: Installation, ciphertext: bytes) -> bytes:
        receiver.engine.learn(self.lists())
        opened = receiver.engine.unseal(sender.user, sender.id, ciphertext)
        receiver.save()
        return opened


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def directory(clock: ManualClock) -> KeyDirectory:
    return KeyDirectory(clock)


@pytest.fixture
def ada(directory: KeyDirectory) -> Installation:
    return directory.new_device("@ada:example", "ADAPHONE")


@pytest.fixture
def bob(directory: KeyDirectory) -> Installation:
    return directory.new_device("@bob:example", "BOBPHONE")
