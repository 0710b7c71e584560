"""The gateway: the agents' device. It hears messages, and every one gets its answer once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from angarium.agents.attempt import Patience
from angarium.agents.attendant import Attendant
from angarium.agents.controls import LANE, Controls
from angarium.agents.dispatcher import Dispatcher
from angarium.agents.guard import Admit, admit_everybody
from angarium.agents.handoff import HumanHours, Humans, Tell, tell_nobody
from angarium.agents.lanes import Lanes
from angarium.agents.media import NO_FILES, Files
from angarium.agents.memory import Notebook
from angarium.agents.operators import Operators
from angarium.agents.orders import SCOPE, read_order
from angarium.agents.people import People
from angarium.agents.recall import Embedder, Recall
from angarium.agents.records import Desk, TurnSeals
from angarium.agents.registry import Registry
from angarium.agents.replies import ON_CHANNELS, Disclosure, Replies
from angarium.agents.routing.router import Router
from angarium.agents.spend import Caps, Spend
from angarium.agents.turns import TurnRunner
from angarium.agents.ward import Ward
from angarium.clock import Clock
from angarium.errors import (
    AngariumError,
    Fenced,
    StoreUnwritable,
    Unavailable,
    Undecryptable,
)
from angarium.ids import ConversationId, DeviceId
from angarium.kms.contract import Sealer
from angarium.limits import (
    CONTROL_LOOK_S,
    STORE_RETRY_MAX_S,
    TURN_RETRY_MIN_S,
    TURN_STALE_S,
    TURNS_AT_ONCE,
    TURNS_HELD_MAX,
)
from angarium.sdk.contract import Endpoint, Happened, Received, Sink
from angarium.storage.contract import (
    Fence,
    Leases,
    PutTurn,
    Turn,
    Turns,
    TurnState,
    Vault,
    Write,
)
from angarium.storage.tenure import Tenure

MakeEndpoint = Callable[[Sink, Fence], Awaitable[Endpoint]]
_log = logging.getLogger(__name__)


class Gateway:
    """Sink behind the agents' device, and owner of all agent work.

    At most one gateway works for a device: it holds the lease `mailbox/<device>`, whose fence
    goes with every write, the endpoint's included; so the endpoint is made here, once the fence
    is known. Load its keys in `make_endpoint`, not before: until then another gateway works and
    moves the ratchets on, and an older copy would use their steps again. `owner` names this
    process; give each process its own. `journal=False` exists only for the test that proves
    what the journal is for (see `Desk`).
    """

    def __init__(
        self,
        *,
        make_endpoint: MakeEndpoint,
        device: DeviceId,
        owner: str,
        vault: Vault,
        turns: Turns,
        leases: Leases,
        sealer: Sealer,
        registry: Registry,
        clock: Clock,
        admit: Admit = admit_everybody,
        files: Files = NO_FILES,
        ward: Ward | None = None,
        router: Router | None = None,
        patience: Patience | None = None,
        turns_at_once: int = TURNS_AT_ONCE,
        turns_held_max: int = TURNS_HELD_MAX,
        caps: Caps | None = None,
        disclosure: Disclosure = ON_CHANNELS,
        hours: HumanHours | None = None,
        tell: Tell = tell_nobody,
        embedder: Callable[[], Embedder | None] = lambda: None,
        journal: bool = True,
    ) -> None:
        self._make_endpoint, self._device = make_endpoint, device
        self._vault, self._turns = vault, turns
        self._tenure = Tenure(leases, clock, name=f"mailbox/{device}", owner=owner)
        self._registry, self._clock, self._admit = registry, clock, admit
        self._ward = ward or Ward(clock)
        self._router = router or Router(registry)
        self._files, self._patience = files, patience or Patience()
        self._journal = journal
        self._seals = TurnSeals(sealer, device)
        self._notebook = Notebook(vault, sealer, f"gateway/{device}")
        self._people = People(vault, sealer, f"gateway/{device}")
        self._controls = Controls(vault, sealer, device)
        self._hours, self._tell = hours or HumanHours(), tell
        scope = f"gateway/{device}"
        self._spend = Spend(vault, sealer, scope, clock, caps or Caps(), "gateway")
        self._disclosure = disclosure
        self._rung = asyncio.Event()
        self._recall = Recall(self._people, clock, embedder)
        self._at_once, self._held_max = turns_at_once, turns_held_max
        self._lanes = self._make_lanes()
        self._lost = asyncio.Event()
        self._endpoint: Endpoint | None = None
        self._dispatcher: Dispatcher | None = None
        self._runner: TurnRunner | None = None
        self._attendant: Attendant | None = None
        self._watches: list[asyncio.Task[None]] = []
        self.trouble: AngariumError | None = None
        self._replied = self._troubles = 0

    # --- life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """Wait for the lease (`standby` meanwhile), take up every open turn, connect, work.

        Raises Unavailable or StoreUnwritable when the store fails meanwhile, and what
        Endpoint.open raises; nothing is held then. After `close` it may be opened again.
        """
        self._lost.clear()
        self.trouble = None
        self._lanes = self._make_lanes()
        fence = await self._tenure.wait()
        self._watches = [asyncio.create_task(self._keep_lease(), name="gateway lease")]
        try:
            self._endpoint = endpoint = await self._make_endpoint(self, fence)
            self._dispatcher = self._make_dispatcher(endpoint, fence)
            await self._wake_open_turns()
            await endpoint.open()
            watch = self._watch(endpoint)
            self._watches.append(asyncio.create_task(watch, name="gateway device"))
            self._watches.append(asyncio.create_task(self._attend(), name="gateway controls"))
            self._lanes.open()
        except BaseException:
            await self.close()
            raise

    async def close(self, grace_s: float = 0.0) -> None:
        """Stop taking up turns, give running ones `grace_s`, stop them, disconnect, release.

        An interrupted turn goes on when a gateway opens for this device again.
        """
        await self._lanes.close(grace_s)
        if self._runner is not None:
            await self._runner.close()
        endpoint, self._endpoint = self._endpoint, None
        try:
            if endpoint is not None:
                await endpoint.close()
        finally:
            await self._leave_lease()

    async def _leave_lease(self) -> None:
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await self._tenure.leave()

    @property
    def standby(self) -> bool:
        """Whether another process works, and this one waits."""
        return self._tenure.standby

    async def wait_lost(self) -> None:
        """Return when this gateway can do no more: another has taken over the device, or the
        device has ended. `trouble` says which. Close it then; it may be opened again."""
        await self._lost.wait()

    @property
    def operators(self) -> Operators:
        """What operators may do; works whether or not this gateway is the one that does it."""
        return Operators(self._controls, self._clock, self._rung.set)

    @property
    def spend(self) -> Spend:
        """What its turns have cost; sums are over all writers."""
        return self._spend

    async def idle(self) -> None:
        """Wait until no turn is being worked on."""
        await self._lanes.idle()

    def figures(self) -> dict[str, int]:
        """For metrics: turns waiting, running lanes, turns worked off, failures of our own."""
        return {
            "turns_held": self._lanes.held,
            "lanes_running": self._lanes.running,
            "turns_done": self._replied,
            "turn_troubles": self._troubles,
        }

    # --- Sink ---------------------------------------------------------------------------------

    def plan(self, received: Received) -> Sequence[Write]:
        """The turn record of a message that wants an answer."""
        if not _wants_answer(received):
            return ()
        now_ms = self._clock.now_ms()
        stale = self._is_stale(received, now_ms)
        state: TurnState = "expired" if stale else "offered"
        turn = Turn(
            conversation=received.conversation,
            sequence=received.sequence,
            owner=self._device,
            state=state,
            body=b"" if stale else self._seals.seal_heard(received),
            reason="stale" if stale else "",
            created_ms=received.accepted_ms,
            updated_ms=now_ms,
        )
        return (PutTurn(turn, only_new=True),)

    def committed(self, received: Received) -> None:
        if _wants_answer(received):
            self._lanes.wake(received.conversation, received.sequence)
            if self._runner is not None:
                self._runner.stir(received.conversation)

    def happened(self, event: Happened) -> None:
        """Typing, receipts and presence of people change nothing here."""

    # --- work ---------------------------------------------------------------------------------

    async def _work(self, conversation: ConversationId, sequence: int) -> None:
        """Work one turn off; while the store is away, again and again."""
        dispatcher = self._dispatcher
        if dispatcher is None:
            return
        pause_s = TURN_RETRY_MIN_S
        run: Callable[[ConversationId, int], Awaitable[int | None]] = dispatcher.run
        while not self._lost.is_set():
            try:
                following = await run(conversation, sequence)
                if following is None:
                    self._replied += 1
                    return
                sequence, run = following, dispatcher.run
            except Fenced as error:
                self._lose(error)
            except (Unavailable, StoreUnwritable) as error:
                _log.warning("a turn waits for the store or the relay: %s", error.code)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, STORE_RETRY_MAX_S)
            except Exception as error:
                if self._endpoint is not None and self._endpoint.error is not None:
                    return  # The device has ended: the turn waits for the next one.
                self._troubles += 1
                code = error.code if isinstance(error, AngariumError) else type(error).__name__
                _log.error("turn %s/%d failed: %s", conversation, sequence, code)
                if run == dispatcher.give_up:
                    return  # Not even the apology could be written; the record stays open.
                run = dispatcher.give_up

    async def _wake_open_turns(self) -> None:
        for turn in await self._turns.list_open(self._device):
            if turn.state != "waiting":
                self._lanes.wake(turn.conversation, turn.sequence)

    async def _attend(self) -> None:
        """Find conversations to which something is to be done beside their messages."""
        task = asyncio.current_task()
        # A store's driver may lose a cancellation when its own tasks are cancelled as well.
        while not (self._lost.is_set() or (task is not None and task.cancelling())):
            self._rung.clear()
            try:
                if self._attendant is not None:
                    for conversation in await self._attendant.overdue():
                        self._lanes.wake(conversation, LANE)
                await self.take_orders()
            except AngariumError as error:
                _log.warning("controls cannot be listed: %s", error.code)
            with suppress(TimeoutError):
                async with asyncio.timeout(CONTROL_LOOK_S):
                    await self._rung.wait()

    async def _refill(self) -> None:
        """After an overflow: take up what was dropped. Tries until the store answers."""
        while not self._lost.is_set():
            try:
                await self._wake_open_turns()
            except AngariumError as error:
                _log.warning("open turns cannot be listed: %s", error.code)
                await asyncio.sleep(TURN_RETRY_MIN_S)
            else:
                return

    # --- operators ----------------------------------------------------------------------------

    async def take_orders(self) -> None:
        """Begin with what operators ask. Raises what the store raises."""
        dispatcher, runner = self._dispatcher, self._runner
        for record in await self._vault.read(SCOPE):
            order = read_order(record)
            if order is None or dispatcher is None or runner is None:
                continue
            place, verb = order
            if verb == "cancel":
                runner.cancel(place)
            dispatcher.order(place, verb)
            self._lanes.wake(*place)

    # --- lease --------------------------------------------------------------------------------

    async def _keep_lease(self) -> None:
        try:
            await self._tenure.keep()
        except Fenced as error:
            self._lose(error)

    async def _watch(self, endpoint: Endpoint) -> None:
        """A device that was displaced or refused hears nothing more, and says so only here."""
        await endpoint.wait_ended()
        if endpoint.error is not None:
            self._lose(endpoint.error)

    def _lose(self, trouble: AngariumError) -> None:
        self.trouble = self.trouble or trouble
        self._lost.set()
        self._lanes.halt()

    # --- parts --------------------------------------------------------------------------------

    def _make_lanes(self) -> Lanes:
        return Lanes(
            self._work, refill=self._refill, at_once=self._at_once, held_max=self._held_max
        )

    def _make_dispatcher(self, endpoint: Endpoint, fence: Fence) -> Dispatcher:
        desk = Desk(
            endpoint=endpoint,
            vault=self._vault,
            turns=self._turns,
            notebook=self._notebook,
            people=self._people,
            seals=self._seals,
            clock=self._clock,
            fence=fence,
            journal=self._journal,
        )
        replies = Replies(desk, self._spend, self._disclosure)
        humans = Humans(desk, replies, self._controls, self._hours, self._tell)
        runner = TurnRunner(
            desk,
            replies,
            humans,
            self._registry,
            router=self._router,
            ward=self._ward,
            recall=self._recall,
            spend=self._spend,
            patience=self._patience,
            admit=self._admit,
            files=self._files,
            aside=self._lanes.aside,
            behind=self._lanes.behind,
        )
        self._runner = runner
        self._attendant = Attendant(desk, replies, self._controls, humans, self._tell)
        return Dispatcher(
            desk, replies, runner, self._attendant, self._registry, self._router, self._admit
        )

    def _is_stale(self, received: Received, now_ms: int) -> bool:
        return now_ms - received.accepted_ms > TURN_STALE_S * 1000


def _wants_answer(received: Received) -> bool:
    if received.own:
        return False
    if received.problem:
        # Sealed for this device and not opened: whoever wrote it would wait for ever.
        return received.problem == Undecryptable.code and received.addressed
    body = received.body
    return body.type == "text" and bool(body.text.strip() or body.files)
