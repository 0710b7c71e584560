"""What happens in a run, decided by its seed before it starts."""

import random
from dataclasses import dataclass

from angarium.ids import DeviceId, UserId
from angarium.testing.simulation.loop import dice

GATEWAY = UserId("@gateway:angarium")
FAULTS_S = 40.0  # Faults stop then.
OLM_EVERY = 20  # Every such seed runs on the product's own ratchet.


@dataclass(frozen=True, slots=True)
class DevicePlan:
    user: UserId
    device: DeviceId
    first: bool  # The user's first device makes the identity.


@dataclass(frozen=True, slots=True)
class Utterance:
    """`device` says `text` in conversation number `conversation`, `at_s` after the start."""

    at_s: float
    device: DeviceId
    conversation: int
    text: str


@dataclass(frozen=True, slots=True)
class Crash:
    """`target` dies at `at_s` and is back `down_s` later."""

    at_s: float
    target: str  # A node's name, a device id or `gateway`.
    down_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """The gateway process neither runs nor dies from `at_s` on, for `for_s`: a zombie."""

    at_s: float
    for_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Chances are what the faulty parts take."""

    seed: int
    nodes: int
    devices: tuple[DevicePlan, ...]
    conversations: tuple[tuple[UserId, ...], ...]
    utterances: tuple[Utterance, ...]
    crashes: tuple[Crash, ...]
    pauses: tuple[Pause, ...]
    skews_ms: tuple[int, ...]  # Of each node's clock.
    cut: float
    half_open: float
    slow: float
    refuse: float
    store_before: float
    store_after: float
    store_zombie: float
    store_slow: float
    doorbells_dropped: float

    @property
    def real_olm(self) -> bool:
        return self.seed % OLM_EVERY == OLM_EVERY - 1


def canary(seed: int, number: int) -> str:
    """A text that must be found nowhere but inside devices."""
    return f"CANARY-{seed:08d}-{number:04d}"


def make_plan(seed: int) -> Plan:
    """The plan of a seed: the same for ever, unless this file changes."""
    chance = dice(seed, "plan")
    nodes = chance.randint(1, 3)
    devices = _devices(chance.randint(2, 3))
    people = sorted({device.user for device in devices})
    conversations: list[tuple[UserId, ...]] = [(people[0], GATEWAY), tuple(people)]
    if chance.random() < 0.5:
        conversations.append((*people[:2], GATEWAY))
    utterances = _utterances(chance, seed, devices, conversations)
    targets = [f"node{n}" for n in range(nodes)] + [d.device for d in devices] + ["gateway"] * 2
    crashes = [
        Crash(chance.uniform(3.0, FAULTS_S), chance.choice(targets), chance.uniform(0.2, 6.0))
        for _ in range(chance.randint(1, 4))
    ]
    pauses = [Pause(chance.uniform(5.0, FAULTS_S), chance.uniform(12.0, 25.0))]
    return Plan(
        seed=seed,
        nodes=nodes,
        devices=devices,
        conversations=tuple(conversations),
        utterances=tuple(sorted(utterances, key=lambda u: u.at_s)),
        crashes=tuple(sorted(crashes, key=lambda c: c.at_s)),
        pauses=tuple(pauses if chance.random() < 0.4 else ()),
        skews_ms=tuple(chance.randint(-600_000, 600_000) for _ in range(nodes)),
        cut=chance.choice((0.0, 0.01, 0.04)),
        half_open=chance.choice((0.0, 0.003)),
        slow=chance.choice((0.0, 0.03)),
        refuse=chance.choice((0.0, 0.2)),
        store_before=chance.choice((0.0, 0.03)),
        store_after=chance.choice((0.0, 0.04)),
        store_zombie=chance.choice((0.0, 0.04)),
        store_slow=chance.choice((0.0, 0.05)),
        doorbells_dropped=chance.choice((0.0, 0.3, 1.0)),
    )


def _utterances(
    chance: random.Random,
    seed: int,
    devices: tuple[DevicePlan, ...],
    conversations: list[tuple[UserId, ...]],
) -> list[Utterance]:
    found: list[Utterance] = []
    while len(found) < 10:
        conversation = chance.randrange(len(conversations))
        device = chance.choice([d for d in devices if d.user in conversations[conversation]])
        # Bunched, so that several devices write into one conversation at once; in bursts, so
        # that several messages of one device are on their way at once.
        moment = chance.choice((0.1, 0.3, 0.5, 0.7, 0.9))
        at_s = 5.0 + 0.9 * FAULTS_S * moment + chance.expovariate(2.0)
        for _ in range(chance.choice((1, 1, 2, 4))):
            text = canary(seed, len(found))
            found.append(Utterance(at_s, device.device, conversation, text))
    return found


def _devices(people: int) -> tuple[DevicePlan, ...]:
    names = ("anna", "ben", "cara")[:people]
    devices = [
        DevicePlan(UserId(f"@{name}:angarium"), DeviceId(f"{name.upper()}0001"), first=True)
        for name in names
    ]
    devices.append(DevicePlan(devices[0].user, DeviceId("ANNA0002"), first=False))
    return tuple(devices)
