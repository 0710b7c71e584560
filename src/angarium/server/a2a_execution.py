"""An A2A task is a turn of one of our agents: its events become the task's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.tasks import TaskUpdater
from a2a.types import Part, Task, TaskState, TaskStatus
from a2a.utils.errors import InvalidParamsError

from angarium.agents.contract import Attachment, Media, Person, Status, Text
from angarium.agents.direct import Asked, DirectRunner
from angarium.agents.ledger import Question, pack_journal, unpack_journal
from angarium.agents.routing.rules import read_answer
from angarium.errors import AngariumError
from angarium.limits import A2A_ALIVE_EVERY_S, A2A_STATUS_CHARS_MAX
from angarium.server.a2a_tasks import Carried, SealedTasks
from angarium.telemetry.log import get_logger

log = get_logger("angarium.a2a")
CHANNEL = "app"


class Execution(AgentExecutor):
    """Runs one agent for the SDK. Closing it, or `cancel`, stops the agent."""

    def __init__(self, agent: str, runner: DirectRunner, tasks: SealedTasks) -> None:
        self._agent, self._runner, self._tasks = agent, runner, tasks

    async def execute(self, context: RequestContext, queue: EventQueue) -> None:
        """Every end of the agent is an end of the task, or its question."""
        task_id, context_id = context.task_id, context.context_id
        if not task_id or not context_id or context.message is None:
            raise InvalidParamsError("a message is missing")
        user = context.call_context.user.user_name
        carried = await self._begin(context, queue, user)
        updater = TaskUpdater(queue, task_id, context_id)
        await updater.start_work()
        try:
            async with self._beating(user, task_id):
                await self._run(context, updater, user, carried)
        except AngariumError as error:
            log.warning("a2a.failed", agent=self._agent, code=error.code)
            await updater.failed(updater.new_agent_message([Part(text=str(error))]))

    async def cancel(self, context: RequestContext, queue: EventQueue) -> None:
        """The SDK ends `execute` after this."""
        if context.task_id and context.context_id:
            await TaskUpdater(queue, context.task_id, context.context_id).cancel()

    async def _begin(self, context: RequestContext, queue: EventQueue, user: str) -> Carried:
        """What the agent is asked: of a new task its message, of one that asked what it
        carries, with the answer in it."""
        task_id, context_id = str(context.task_id), str(context.context_id)
        text = context.get_user_input()
        known = await self._tasks.carried(user, task_id) if context.current_task else None
        if known is None:
            history = await self._tasks.said(user, context_id, but=task_id)
            known = Carried(text, list(history))
        elif known.journal:
            journal = unpack_journal(known.journal)
            question = journal.open_question()
            if question is not None:
                question.answer = read_answer(text, question.options)
            known.journal = pack_journal(journal)
        if context.current_task is None and context.message is not None:
            status = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
            history_now = [context.message]
            await queue.enqueue_event(
                Task(id=task_id, context_id=context_id, status=status, history=history_now)
            )
        return known

    async def _run(
        self, context: RequestContext, updater: TaskUpdater, user: str, carried: Carried
    ) -> None:
        journal = unpack_journal(carried.journal)
        told = _Telling(updater, f"reply-{len(journal.questions)}")
        run = self._runner.run(
            self._agent,
            carried.text,
            carried.history,
            Person(user, channel=CHANNEL),
            _attached(context),
            conversation=updater.context_id,
            key=updater.task_id,
            journal=journal,
            memory=carried.memory,
        )
        async with aclosing(run) as events:
            async for event in events:
                match event:
                    case Text(text) if text:
                        await told.text(text)
                    case Status(text) if text:
                        await told.status(text)
                    case Media():
                        await told.file(event)
                    case Asked(question):
                        carried.journal = pack_journal(journal)
                        self._tasks.carry(user, updater.task_id, carried)
                        await told.ask(question)
                        return
                    case _:
                        pass
        await updater.complete()

    @asynccontextmanager
    async def _beating(self, user: str, task_id: str) -> AsyncIterator[None]:
        """Say now and again that the task still runs: else it counts as dead."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(A2A_ALIVE_EVERY_S)
                try:
                    await self._tasks.touch(user, task_id)
                except AngariumError as error:
                    log.warning("a2a.silent", code=error.code)

        beating = asyncio.create_task(beat(), name="a2a task")
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)


class _Telling:
    """What an agent says, as updates of its task."""

    def __init__(self, updater: TaskUpdater, artifact: str) -> None:
        self._updater, self._artifact = updater, artifact
        self._begun = False
        self._files = 0

    async def text(self, text: str) -> None:
        await self._updater.add_artifact(
            [Part(text=text)], artifact_id=self._artifact, append=self._begun
        )
        self._begun = True

    async def status(self, text: str) -> None:
        message = self._updater.new_agent_message([Part(text=text[:A2A_STATUS_CHARS_MAX])])
        await self._updater.start_work(message)

    async def file(self, file: Media) -> None:
        self._files += 1
        part = Part(raw=file.data, filename=file.name, media_type=file.content_type)
        await self._updater.add_artifact(
            [part], artifact_id=f"{self._artifact}-file-{self._files}", name=file.name
        )

    async def ask(self, question: Question) -> None:
        options = [f"{number}. {one}" for number, one in enumerate(question.options, 1)]
        text = "\n".join([question.text, *options])
        await self._updater.requires_input(self._updater.new_agent_message([Part(text=text)]))


def _attached(context: RequestContext) -> list[Attachment]:
    """The files in a message; those it only links to are not fetched."""
    parts = context.message.parts if context.message else []
    return [
        _attachment(part.filename or "file", part.media_type, part.raw)
        for part in parts
        if part.WhichOneof("content") == "raw"
    ]


def _attachment(name: str, content_type: str, raw: bytes) -> Attachment:
    async def read() -> bytes:
        return raw

    return Attachment(name, content_type or "application/octet-stream", len(raw), read)
