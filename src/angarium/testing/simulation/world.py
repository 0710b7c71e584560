"""One run: nodes, devices and a gateway among faults until time is up; then it is judged."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from angarium.bus.contract import Event
from angarium.e2ee.identity import Identity
from angarium.errors import Malformed, TooLarge
from angarium.ids import ConversationId, UserId, uuid7
from angarium.kms.sealer import DataKeySealer
from angarium.model.conversation import Participant
from angarium.protocol.codec import MsgpackCodec
from angarium.protocol.frames import Msg, Range, Send
from angarium.storage.sqlite.store import SqliteStore, open_sqlite
from angarium.testing.fakes_crypto import Witness
from angarium.testing.simulation.air import Air, BusWeather
from angarium.testing.simulation.desk import DEVICE, SimulatedGateway
from angarium.testing.simulation.door import Counter, DoorWeather, SimulatedApi
from angarium.testing.simulation.invariants import Entry, Facts, History, judge
from angarium.testing.simulation.loop import (
    START_MS,
    LoopClock,
    Process,
    Stuck,
    VirtualLoop,
    dice,
    run,
)
from angarium.testing.simulation.network import End, Network, Weather
from angarium.testing.simulation.person import Kit, SimulatedPerson
from angarium.testing.simulation.plan import FAULTS_S, GATEWAY, Plan, make_plan
from angarium.testing.simulation.recorder import scope_of, shown_of
from angarium.testing.simulation.relay import SimulatedConnector, SimulatedNode
from angarium.testing.simulation.store import Illness, StoreFigures
from angarium.testing.simulation.switches import ALL_ON, Switches

BOOT_WAIT_S = 30.0
RECOVERY_S = 120.0  # From the end of faults until all is at rest; longer breaks I8.
LOOK_EVERY_S = 6.0
REST_S = 8.0  # Nothing may change once all is at rest.
LOG_READ_MAX = 500
CANARY = b"CANARY"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seed gave: broken invariants (none: clean), and how much happened."""

    seed: int
    violations: list[str]
    figures: dict[str, int] = field(default_factory=dict)


def simulate(seed: int, switches: Switches = ALL_ON, tell: Tell | None = None) -> Outcome:
    """Play one seed to its end and judge it. Never raises for what the product does."""
    plan = make_plan(seed)
    lines = _Lines()
    logger = logging.getLogger("angarium")
    level, propagate = logger.level, logger.propagate
    # Every line is looked at, none is printed.
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(lines)
    collects = gc.isenabled()
    gc.disable()  # What is only held weakly goes when the seed says so, and replays.
    try:
        return run(seed, lambda loop: World(loop, plan, switches, lines, tell).play())
    except Stuck as error:
        return Outcome(seed, [f"I8 stuck: {error}"])
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
        logger.propagate = propagate
        if collects:
            gc.enable()


class _Lines(logging.Handler):
    """Looks at every log line for plaintext; keeps none."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.leaked = False
        self.seen = 0

    def emit(self, record: logging.LogRecord) -> None:
        shown = f"{record.getMessage()} {record.__dict__}"
        if record.exc_info:
            shown += logging.Formatter().formatException(record.exc_info)
        self.seen += 1
        self.leaked = self.leaked or CANARY.decode() in shown


class World:
    """Everything of one run. `play` is its whole life."""

    def __init__(
        self,
        loop: VirtualLoop,
        plan: Plan,
        switches: Switches,
        lines: _Lines,
        tell: Tell | None,
    ) -> None:
        self._loop, self._plan, self._switches, self._lines = loop, plan, switches, lines
        self._tell = tell
        self._weather, self._doorbells, self._doors = Weather(), BusWeather(), DoorWeather()
        self._illness, self._store_figures = Illness(), StoreFigures()
        self._network = Network(loop, self._weather, dice(plan.seed, "network"))
        self._air = Air(loop, self._doorbells, dice(plan.seed, "bus"), self._heard)
        self._codec, self._witness = MsgpackCodec(), Witness()
        self._taken: list[tuple[str, str]] = []
        self._reused: list[str] = []
        self._misdelivered: list[str] = []
        self._leaks: set[str] = set()
        self._effects: list[tuple[str, int]] = []
        self._stores: SqliteStore | None = None
        self._nodes: list[SimulatedNode] = []
        self._people: list[SimulatedPerson] = []
        self._gateways: list[SimulatedGateway] = []
        self._conversations: list[tuple[ConversationId, Sequence[UserId]]] = []
        self._gateway_history = History(GATEWAY, DEVICE)
        self._crashes = self._pauses = 0

    # --- the whole of it ----------------------------------------------------------------------

    async def play(self) -> Outcome:
        try:
            await self._build()
            if await self._boot():
                await self._suffer()
                violations = await self._rest()
            else:
                violations = ["I8 not everything came up without any fault"]
        finally:
            self._end()
        figures = {
            "messages": sum(person.taken for person in self._people),
            "cuts": self._network.figures.cut,
            "lost": self._network.figures.lost,
            "crashes": self._crashes,
            "pauses": self._pauses,
            "doorbells_dropped": self._air.dropped,
            "store_faults": self._store_figures.before
            + self._store_figures.after
            + self._store_figures.zombie,
            "log_lines": self._lines.seen,
            "virtual_s": round(self._loop.time()),
        }
        return Outcome(self._plan.seed, violations, figures)

    async def _build(self) -> None:
        plan, loop = self._plan, self._loop
        clock = LoopClock(loop)
        self._stores = await open_sqlite(
            None, clock, inline=True, guards=self._switches.of_store
        )
        ids = dice(plan.seed, "ids").randbytes
        for users in plan.conversations:
            conversation = ConversationId(uuid7(START_MS, ids))
            members = [Participant(u, "agent" if u == GATEWAY else "person") for u in users]
            await self._stores.store.conversations.create(conversation, members, START_MS)
            self._conversations.append((conversation, users))
        for number in range(plan.nodes):
            self._nodes.append(
                SimulatedNode(
                    f"node{number}",
                    loop=loop,
                    stores=self._stores,
                    air=self._air,
                    illness=self._illness,
                    figures=self._store_figures,
                    chance=dice(plan.seed, f"store of node{number}"),
                    skew_ms=plan.skews_ms[number],
                    head_check=self._switches.head_check,
                )
            )
        self._make_people()
        self._make_gateways()

    def _make_people(self) -> None:
        plan, identities = self._plan, dict[UserId, Identity]()
        for device in plan.devices:
            if device.first:
                random_bytes = dice(plan.seed, device.user).randbytes
                identities[device.user] = Identity.create(device.user, random_bytes)
            identity = identities[device.user]
            self._people.append(
                SimulatedPerson(
                    plan=device,
                    kit=self._kit(device.device),
                    identity=identity if device.first else identity.for_further_device(),
                    lines=[u for u in plan.utterances if u.device == device.device],
                    conversations=self._conversations,
                    history=History(device.user, device.device),
                )
            )

    def _make_gateways(self) -> None:
        assert self._stores is not None  # noqa: S101
        identity = Identity.create(GATEWAY, dice(self._plan.seed, GATEWAY).randbytes)
        for name in ("gateway", "standby") if self._plan.pauses else ("gateway",):
            self._gateways.append(
                SimulatedGateway(
                    name=name,
                    kit=self._kit(name),
                    identity=identity,
                    stores=self._stores,
                    illness=self._illness,
                    figures=self._store_figures,
                    history=self._gateway_history,
                    effects=self._effects,
                    journal=self._switches.journal,
                )
            )

    def _kit(self, name: str) -> Kit:
        plan, loop = self._plan, self._loop
        chance = dice(plan.seed, f"device {name}")
        key = dice(plan.seed, "sealing key").randbytes(32)

        def api(user: UserId) -> SimulatedApi:
            return SimulatedApi(
                user=user,
                loop=loop,
                counters=self._counters,
                weather=self._doors,
                chance=chance,
                checked=plan.real_olm,
                taken=lambda device, key_id: self._taken.append((device, key_id)),
            )

        def connector(process: Process) -> SimulatedConnector:
            return SimulatedConnector(
                process, self._network, lambda: self._nodes, chance, self._seen
            )

        sealer = DataKeySealer(key, chance.randbytes)
        return Kit(loop, LoopClock(loop), plan.real_olm, chance, api, connector, sealer)

    def _counters(self) -> list[Counter]:
        return [node.life.counter for node in self._nodes if node.life is not None]

    # --- time ---------------------------------------------------------------------------------

    async def _boot(self) -> bool:
        for node in self._nodes:
            await node.start()
        try:
            async with asyncio.timeout(BOOT_WAIT_S):
                for person in self._people:
                    person.start()
                    await person.opened.wait()
                self._gateways[0].start()
                await self._gateways[0].opened.wait()
        except TimeoutError:
            return False
        for gateway in self._gateways[1:]:
            gateway.start()
        return True

    async def _suffer(self) -> None:
        plan, start_s = self._plan, self._loop.time()
        self._begin_faults()
        events: list[tuple[float, Callable[[], Awaitable[None]]]] = []
        for crash in plan.crashes:
            events.append((crash.at_s, partial(self._crash, crash.target)))
            events.append((crash.at_s + crash.down_s, partial(self._bring_up, crash.target)))
        for pause in plan.pauses:
            events.append((pause.at_s, self._pause))
            events.append((pause.at_s + pause.for_s, self._resume))
        for at_s, act in sorted(events, key=lambda event: event[0]):
            await asyncio.sleep(max(0.0, start_s + at_s - self._loop.time()))
            await act()
        await asyncio.sleep(max(0.0, start_s + FAULTS_S - self._loop.time()))
        self._end_faults()
        for name in self._names():
            await self._bring_up(name)

    async def _rest(self) -> list[str]:
        """Wait until nothing is wrong any more, then make sure that it stays so."""
        violations: list[str] = []
        deadline_s = self._loop.time() + RECOVERY_S
        while self._loop.time() < deadline_s:
            await asyncio.sleep(LOOK_EVERY_S)
            violations = judge(await self._facts())
            if not violations:
                await asyncio.sleep(REST_S)
                return judge(await self._facts())
        return violations

    def _begin_faults(self) -> None:
        plan = self._plan
        self._weather.cut = self._weather.cut_after = plan.cut
        self._weather.half_open, self._weather.slow = plan.half_open, plan.slow
        self._weather.refuse = plan.refuse
        self._doors.lost = self._doors.answer_lost = plan.refuse / 4
        self._illness.before, self._illness.after = plan.store_before, plan.store_after
        self._illness.zombie, self._illness.slow = plan.store_zombie, plan.store_slow
        self._doorbells.drop, self._doorbells.double = plan.doorbells_dropped, 0.1

    def _end_faults(self) -> None:
        self._say("faults stop")
        self._weather.clear()
        self._doors.clear()
        self._illness.heal()
        self._doorbells.clear()
        if self._plan.doorbells_dropped == 1.0:
            self._doorbells.drop = 1.0  # Pub/sub stays away: heads must be compared.

    def _names(self) -> list[str]:
        devices = [person.plan.device for person in self._people]
        return [node.name for node in self._nodes] + devices + ["gateway"]

    async def _crash(self, target: str) -> None:
        self._crashes += 1
        self._say(f"{target} dies")
        for node in self._nodes:
            if node.name == target:
                await node.crash()
        for person in self._people:
            if person.plan.device == target:
                person.crash()
        if target == "gateway":
            self._gateways[0].crash()

    async def _bring_up(self, target: str) -> None:
        self._say(f"{target} is up")
        for node in self._nodes:
            if node.name == target:
                await node.start()
        for person in self._people:
            if person.plan.device == target:
                person.start()
        if target == "gateway":
            self._gateways[0].start()

    async def _pause(self) -> None:
        process = self._gateways[0].process
        if process is not None:
            self._pauses += 1
            self._say("the gateway stands still")
            self._loop.pause(process)

    async def _resume(self) -> None:
        process = self._gateways[0].process
        if process is not None and process.paused:
            self._say("the gateway goes on")
            self._loop.resume(process)

    def _end(self) -> None:
        for person in self._people:
            person.crash()
        for gateway in self._gateways:
            gateway.crash()
        for node in self._nodes:
            if node.life is not None:
                self._loop.kill(node.life.process)

    # --- witnesses ----------------------------------------------------------------------------

    def _seen(self, end: End, payload: bytes) -> None:
        """Every WebSocket message at a client's end."""
        if CANARY in payload:
            self._leaks.add("a frame")
        device = end.process.name if not end.process.name.startswith(("g", "s")) else DEVICE
        try:
            for frame in self._codec.decode_client(payload):
                if isinstance(frame, Send):
                    for sealed in frame.to:
                        if self._witness.reused(device, sealed.dev, sealed.ct):
                            self._reused.append(f"{device} to {sealed.dev}")
        except (Malformed, TooLarge):
            self._seen_from_node(end, payload)

    def _seen_from_node(self, end: End, payload: bytes) -> None:
        members = {c: users for c, users in self._conversations}
        user = self._user_of(end.process)
        for frame in self._codec.decode_server(payload):
            messages = [frame] if isinstance(frame, Msg) else []
            messages += frame.msgs if isinstance(frame, Range) else []
            for message in messages:
                if user not in members.get(ConversationId(message.c), ()):
                    self._misdelivered.append(f"{message.c}/{message.s} reached {user}")

    def _user_of(self, process: Process) -> UserId:
        for person in self._people:
            if person.process is process:
                return person.plan.user
        return GATEWAY

    def _heard(self, event: Event) -> None:
        if CANARY.decode() in repr(event):  # Bytes are readable in it as far as they are text.
            self._leaks.add("the bus")

    async def _facts(self) -> Facts:
        assert self._stores is not None  # noqa: S101
        store = self._stores.store
        log: dict[str, list[Entry]] = {}
        for conversation, _ in self._conversations:
            log[conversation] = [
                Entry(m.sequence, m.key, m.sender, m.device, m.cs)
                for m in await store.log.read(conversation, DEVICE, 1, 10**6, LOG_READ_MAX)
            ]
        answers: dict[str, set[str]] = {}
        histories = [person.history for person in self._people]
        for person in self._people:
            scope = scope_of(person.plan.device)
            shown, answered = shown_of(await person.storage.read(scope))
            person.history.shown = dict(shown)
            for ref, keys in answered.items():
                answers.setdefault(ref, set()).update(keys)
        shown, _ = shown_of(await store.vault.read(scope_of(DEVICE)))
        self._gateway_history.shown = dict(shown)
        if CANARY in self._stores._writer.connection.serialize():
            self._leaks.add("the store")
        if self._lines.leaked:
            self._leaks.add("the log")
        return Facts(
            log=log,
            members={c: frozenset(users) for c, users in self._conversations},
            histories=[*histories, self._gateway_history],
            agents=frozenset({GATEWAY}),
            answers={ref: sorted(keys) for ref, keys in answers.items()},
            effects=self._effects,
            misdelivered=self._misdelivered,
            reused_steps=self._reused,
            leaks=sorted(self._leaks),
            taken_keys=self._taken,
            unhandled=self._loop.unhandled,
            unfinished=[
                f"{person.plan.device} has more to say or is not sure of what it said"
                for person in self._people
                if not person.done
            ],
        )

    def _say(self, line: str) -> None:
        if self._tell is not None:
            self._tell(f"{self._loop.time():8.3f} {line}")
