"""Tasks of agents that are served over A2A: sealed in the store, each its person's own.

A task that runs is kept in memory; what changes its state is written before anybody is told.
"""

import hashlib
from collections.abc import Sequence

import msgspec
from a2a.server.context import ServerCallContext
from a2a.server.tasks import InMemoryTaskStore, TaskStore
from a2a.types import ListTasksRequest, ListTasksResponse, Message, Part, Role, Task, TaskState

from angarium.clock import Clock
from angarium.errors import SealBroken
from angarium.kms.contract import Sealer
from angarium.limits import (
    A2A_DEAD_AFTER_S,
    A2A_TASK_BYTES_MAX,
    A2A_TASK_ID_CHARS_MAX,
    A2A_TASKS_PER_PERSON_MAX,
)
from angarium.server.a2a_kept import due, is_over, saved_ms_of, sealed_of, stamped
from angarium.storage.contract import DropRecord, PutRecord, Vault, Write

RUNNING = frozenset({TaskState.TASK_STATE_SUBMITTED, TaskState.TASK_STATE_WORKING})
ENDED = frozenset(
    {
        TaskState.TASK_STATE_COMPLETED,
        TaskState.TASK_STATE_CANCELED,
        TaskState.TASK_STATE_FAILED,
        TaskState.TASK_STATE_REJECTED,
    }
)
DIED = "The server stopped while this task ran, and nothing more comes of it. Send it again."


class Carried(msgspec.Struct, omit_defaults=True):
    """What a task that asked something needs when the answer comes. `journal` is packed."""

    text: str
    history: list[tuple[str, str]] = []
    journal: bytes = b""
    memory: dict[str, object] = {}


class _Record(msgspec.Struct, omit_defaults=True):
    """`alive_ms`: when the process that runs it last said so."""

    task: bytes
    alive_ms: int
    carried: Carried | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode
_Stage = tuple[int, int]


class SealedTasks(TaskStore):
    """The tasks of one agent. A person has at most A2A_TASKS_PER_PERSON_MAX, the oldest go;
    each is kept A2A_TASK_KEPT_S after its last change."""

    def __init__(self, agent: str, vault: Vault, sealer: Sealer, clock: Clock) -> None:
        self._agent, self._vault, self._sealer, self._clock = agent, vault, sealer, clock
        self._live: dict[tuple[str, str], Task] = {}
        self._written: dict[tuple[str, str], _Stage] = {}
        self._carried: dict[tuple[str, str], Carried] = {}

    # --- what the SDK asks for ----------------------------------------------------------------

    async def save(self, task: Task, context: ServerCallContext) -> None:
        """Raises what Vault.write raises; then nothing has changed in the store."""
        user = context.user.user_name
        place = (user, task.id)
        stage = (int(task.status.state), len(task.history))
        before = self._written.get(place)
        if before != stage:
            await self._write(user, task)
            self._written[place] = stage
        if task.status.state in RUNNING:
            self._live[place] = task
            return
        self._live.pop(place, None)
        self._written.pop(place, None)
        # An answer is noted down before the task runs again; what it carries is needed then.
        if task.status.state in ENDED or (before is not None and before[0] in RUNNING):
            self._carried.pop(place, None)

    async def get(self, task_id: str, context: ServerCallContext) -> Task | None:
        """A copy of the caller's own task of that name."""
        user = context.user.user_name
        live = self._live.get((user, task_id))
        if live is not None:
            return _copy(live)
        record = await self._read(user, task_id)
        return None if record is None else await self._settled(user, record)

    async def list(
        self, params: ListTasksRequest, context: ServerCallContext
    ) -> ListTasksResponse:
        """A page of the caller's own tasks, the newest first."""
        found = InMemoryTaskStore()
        for task in await self._all(context.user.user_name):
            await found.save(task, context)
        return await found.list(params, context)

    async def delete(self, task_id: str, context: ServerCallContext) -> None:
        user = context.user.user_name
        self._live.pop((user, task_id), None)
        await self._vault.write([DropRecord(self._scope(user), task_id)])

    # --- what the executor asks for -----------------------------------------------------------

    def carry(self, user: str, task_id: str, carried: Carried) -> None:
        """Written with the task's next change."""
        self._carried[(user, task_id)] = carried

    async def carried(self, user: str, task_id: str) -> Carried | None:
        """What the task carries since it asked; None for a task that asked nothing."""
        record = await self._read(user, task_id)
        if record is None or record.carried is None:
            return None
        self._carried[(user, task_id)] = record.carried
        return record.carried

    async def touch(self, user: str, task_id: str) -> None:
        """The task still runs here."""
        live = self._live.get((user, task_id))
        if live is not None:
            await self._write(user, live)

    async def said(self, user: str, context_id: str, but: str) -> Sequence[tuple[str, str]]:
        """(role, text) of the person's ended tasks in a context, without the task `but`."""
        tasks = [
            task
            for task in await self._all(user)
            if task.context_id == context_id and task.id != but and task.status.state in ENDED
        ]
        tasks.sort(key=lambda task: task.status.timestamp.ToNanoseconds())
        return [line for task in tasks for line in _lines(task)]

    async def end_all(self, sentence: str) -> None:
        """What runs here ends here, as failed."""
        for (user, _), task in tuple(self._live.items()):
            end(task, sentence, self._clock)
            await self._write(user, task)
        self._live.clear()

    # --- records ------------------------------------------------------------------------------

    async def _all(self, user: str) -> Sequence[Task]:
        tasks = []
        for found in await self._vault.read(self._scope(user)):
            live = self._live.get((user, found.key))
            record = self._open(user, found.key, found.blob)
            if live is not None:
                tasks.append(_copy(live))
            elif record is not None:
                tasks.append(await self._settled(user, record))
        return tasks

    async def _read(self, user: str, task_id: str) -> _Record | None:
        if not 0 < len(task_id) <= A2A_TASK_ID_CHARS_MAX:
            return None
        for found in await self._vault.read(self._scope(user), task_id):
            if found.key == task_id:
                return self._open(user, task_id, found.blob)
        return None

    async def _write(self, user: str, task: Task) -> None:
        scope, now_ms = self._scope(user), self._clock.now_ms()
        writes: list[Write] = []
        if (user, task.id) not in self._written:
            writes = [due(scope, now_ms), *await self._make_room(scope, task.id)]
        record = _Record(_packed(task), now_ms, self._carried.get((user, task.id)))
        sealed = self._sealer.seal(_encode(record), f"{scope}/{task.id}/{now_ms}")
        put = PutRecord(scope, task.id, stamped(now_ms, sealed))
        await self._vault.write([*writes, put])

    async def _make_room(self, scope: str, task_id: str) -> Sequence[Write]:
        """Drop what is over, and the oldest where there are too many."""
        now_ms = self._clock.now_ms()
        others = [one for one in await self._vault.read(scope) if one.key != task_id]
        kept = [one for one in others if not is_over(one.blob, now_ms)]
        kept.sort(key=lambda one: saved_ms_of(one.blob))
        room = A2A_TASKS_PER_PERSON_MAX - 1
        stays = {one.key for one in kept[-room:]}
        return [DropRecord(scope, one.key) for one in others if one.key not in stays]

    async def _settled(self, user: str, record: _Record) -> Task:
        """The task; failed, with a sentence, where the process that ran it is gone."""
        task: Task = Task.FromString(record.task)
        silent_ms = self._clock.now_ms() - record.alive_ms
        if task.status.state in RUNNING and silent_ms > A2A_DEAD_AFTER_S * 1000:
            end(task, DIED, self._clock)
            await self._write(user, task)
        return task

    def _open(self, user: str, key: str, blob: bytes) -> _Record | None:
        """What is over, or does not open, or does not read, counts as not there."""
        place = f"{self._scope(user)}/{key}/{saved_ms_of(blob)}"
        if is_over(blob, self._clock.now_ms()):
            return None
        try:
            return _decode(self._sealer.unseal(sealed_of(blob), place))
        except (SealBroken, msgspec.DecodeError):
            return None

    def _scope(self, user: str) -> str:
        digest = hashlib.sha256(f"a2a/{self._agent}/{user}".encode()).hexdigest()
        return f"a2a/{digest[:32]}"


def end(task: Task, sentence: str, clock: Clock) -> None:
    """Mark it as failed."""
    task.status.state = TaskState.TASK_STATE_FAILED
    task.status.message.CopyFrom(
        Message(
            message_id=f"{task.id}-end",
            role=Role.ROLE_AGENT,
            task_id=task.id,
            context_id=task.context_id,
            parts=[Part(text=sentence)],
        )
    )
    task.status.timestamp.FromMilliseconds(clock.now_ms())


def _copy(task: Task) -> Task:
    copied = Task()
    copied.CopyFrom(task)
    return copied


def _packed(task: Task) -> bytes:
    """Within A2A_TASK_BYTES_MAX: files go first, then artifacts."""
    raw = task.SerializeToString()
    if len(raw) <= A2A_TASK_BYTES_MAX:
        return bytes(raw)
    small = _copy(task)
    for holder in (*small.artifacts, *small.history):
        for part in holder.parts:
            if part.WhichOneof("content") == "raw":
                part.text = f"[{part.filename or 'file'}: too large to keep]"
    raw = small.SerializeToString()
    if len(raw) > A2A_TASK_BYTES_MAX:
        del small.artifacts[:]
        del small.history[:-1]
        raw = small.SerializeToString()
    return bytes(raw)


def _lines(task: Task) -> list[tuple[str, str]]:
    roles = {Role.ROLE_USER: "user", Role.ROLE_AGENT: "agent"}
    lines = [(roles[one.role], _text(one.parts)) for one in task.history if one.role in roles]
    lines.append(("agent", "".join(_text(one.parts) for one in task.artifacts)))
    return [line for line in lines if line[1]]


def _text(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts)
