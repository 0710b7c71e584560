"""The interactive chat: a prompt below, messages above, what is being written between."""

import asyncio
import contextlib
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from angarium.cli.devices import Linking
from angarium.cli.screen import printable, show_line
from angarium.errors import AngariumError
from angarium.ids import MessageKey, uuid7
from angarium.limits import TYPING_TTL_MS
from angarium.sdk.client import Client, Conversation, Message, Piece

HISTORY_SHOWN = 20
TYPING_EVERY_S = 3.0
REFRESH_S = 0.5  # How long the line below may be behind.
DRAFT_LINES = 3  # Of an answer being written; the final message shows it whole.
DRAFTS_MAX = 8  # Answers being written at once; the oldest is no longer shown.
FOR_AGENTS = frozenset({"/agents", "/reset"})  # Words the gateway obeys: sent as they are.
HELP = (
    "/agents              which agents answer here",
    "/reset               let the agents forget this conversation",
    "/verify              show the safety number of who you talk to",
    "/trust               accept changed keys, after comparing the safety numbers",
    "/attach PATH [TEXT]  send a file",
    "/save N [PATH]       save attachment N",
    "/who                 who takes part",
    "/devices             your devices that wait to be linked",
    "/link DEVICE         link one, after comparing its fingerprint",
    "/quit                leave (or Ctrl-D)",
)


class Terminal:
    """One conversation on the screen. `run` returns when the person or the client has ended.

    A message is shown once it is durable here; whether the relay has it yet, the line at the
    bottom says.
    """

    def __init__(self, client: Client, conversation: Conversation, peer: str) -> None:
        self._client, self._conversation, self._peer = client, conversation, peer
        self._files: list[tuple[Message, int]] = []
        self._drafts: OrderedDict[str, dict[int, str]] = OrderedDict()
        self._status = ""
        self._typing: dict[str, float] = {}
        self._last_typed_s = float("-inf")
        self._shown = 0
        self._mine: set[MessageKey] = set()
        self._sends: set[asyncio.Task[None]] = set()
        self._console = Console(highlight=False)
        self._linking = Linking(client)

    async def run(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.patch_stdout import patch_stdout
        from prompt_toolkit.styles import Style

        peer, user = escape(self._peer), escape(self._client.user)
        self._console.print(f"Sealed end to end between [bold]{user}[/] and [bold]{peer}[/].")
        self._console.print("[dim]/help lists what else you can do here.[/]")
        for message in await self._conversation.history(HISTORY_SHOWN):
            self._show(message)
        session: PromptSession[str] = PromptSession(
            "> ", bottom_toolbar=self._toolbar, refresh_interval=REFRESH_S,
            erase_when_done=True,
            style=Style.from_dict({"bottom-toolbar": "noreverse #888888"}),
        )  # fmt: skip
        session.default_buffer.on_text_changed += lambda buffer: self._typed(buffer.text)
        with patch_stdout(raw=True):
            self._console = Console(highlight=False, file=sys.stdout, force_terminal=True)
            followers = [
                asyncio.create_task(self._follow_messages(lambda: leave(session))),
                asyncio.create_task(self._follow_events(session.app.invalidate)),
                asyncio.create_task(self._follow_parts(session.app.invalidate)),
            ]
            try:
                with contextlib.suppress(EOFError, KeyboardInterrupt):
                    while (line := await session.prompt_async()) is not None:
                        if not await self._line(line):
                            break
            finally:
                tasks = [*followers, *self._sends]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    # --- what comes ---------------------------------------------------------------------------

    async def _follow_messages(self, leave: Callable[[], None]) -> None:
        async for message in self._conversation.messages():
            if message.sequence > self._shown:
                self._forget_draft(message.body.ref)
                self._show(message)
                if not message.own:
                    self._conversation.mark_read(message.sequence)
        leave()  # The client has ended: there is nothing to wait for.

    async def _follow_parts(self, redraw: Callable[[], None]) -> None:
        async for piece in self._conversation.stream():
            if not isinstance(piece, Piece):
                self._forget_draft(piece.body.ref)
            elif piece.body.type == "status":
                self._status = piece.text
            else:
                self._draft(piece)
            redraw()

    def _draft(self, piece: Piece) -> None:
        parts = self._drafts.setdefault(piece.ref, {})
        if piece.index in parts:
            parts.clear()  # Another attempt begins anew.
        parts[piece.index] = piece.text
        self._status = ""
        if len(self._drafts) > DRAFTS_MAX:
            self._drafts.popitem(last=False)

    def _forget_draft(self, ref: str) -> None:
        if self._drafts.pop(ref, None) is not None or ref:
            self._status = ""

    async def _follow_events(self, redraw: Callable[[], None]) -> None:
        async for event in self._client.events():
            if event.kind == "typing" and event.conversation == self._conversation.id:
                self._typing.pop(event.user, None)
                if event.on:
                    self._typing[event.user] = self._now_s() + TYPING_TTL_MS / 1000
                redraw()

    def _toolbar(self) -> str:
        """What goes on now: the connection, then who writes and what."""
        waiting = len(self._sends)
        if not self._client.endpoint.live:
            kept = f"; {waiting} message(s) will be sent then" if waiting else ""
            return f"offline, connecting again ...{kept}"
        for parts in self._drafts.values():
            text = printable("".join(parts[index] for index in sorted(parts)))
            width = max(20, self._console.width - 1)
            lines = textwrap.wrap(text[-DRAFT_LINES * width :], width)
            return "\n".join(lines[-DRAFT_LINES:]) + " ..."
        now_s = self._now_s()
        writing = sorted(user for user, until_s in self._typing.items() if until_s > now_s)
        if writing:
            doing = printable(self._status) or "writing"
            return f"{', '.join(writing)}: {doing} ..."
        return f"sending {waiting} ..." if waiting else "connected"

    def _show(self, message: Message) -> None:
        self._shown = max(self._shown, message.sequence)
        self._typing.pop(message.sender, None)
        if message.key in self._mine:
            self._mine.discard(message.key)  # It stands here since it was written.
            return
        name = "you" if message.own else message.body.agent or message.body.name
        text = Text(printable(message.text))
        if message.problem:
            text = Text(f"[{message.problem}: not shown]", style="red")
        style = "cyan" if message.own else "green"
        show_line(self._console, name or message.sender, text, style)
        if message.gap:
            self._console.print(f"[yellow]{message.gap} earlier message(s) never came[/]")
        for number, option in enumerate(message.body.options, 1):
            self._console.print(f"  {number}. {escape(printable(option))}")
        for index, file in enumerate(message.attachments):
            self._files.append((message, index))
            count, name = len(self._files), escape(printable(file.name))
            self._console.print(f"  attachment {count}: {name}, {file.size:,} bytes")

    # --- what goes ----------------------------------------------------------------------------

    async def _line(self, line: str) -> bool:
        """Carry one line out; False to leave."""
        command, _, rest = line.strip().partition(" ")
        if command == "/quit":
            return False
        try:
            if self._linking.waiting is not None:
                await self._linking.answer(self._console, line)
            elif command.startswith("/") and command not in FOR_AGENTS:
                self._console.print(Text(f"> {line.strip()}", style="dim"))
                await self._command(command, rest.strip())
            elif line.strip():
                await self._say(line)
        except AngariumError as error:
            self._console.print(f"[red]{error.code}[/] {escape(str(error))}")
        return True

    async def _say(self, text: str) -> None:
        key = MessageKey(uuid7(self._client.now_ms()))
        self._mine.add(key)
        try:
            await self._conversation.send(text, key=key, wait=False)
        except AngariumError:
            self._mine.discard(key)
            show_line(self._console, "you", Text(printable(text), style="dim"), "dim")
            raise
        show_line(self._console, "you", text, "cyan")
        task = asyncio.create_task(self._confirm(key))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    async def _confirm(self, key: MessageKey) -> None:
        try:
            await self._client.endpoint.sent(key)
        except AngariumError as error:
            self._console.print(f"[red]not sent[/] {error.code}: {escape(str(error))}")

    async def _command(self, command: str, rest: str) -> None:
        match command:
            case "/verify":
                number = await self._client.safety_number(self._peer)
                self._console.print(f"[bold]{number}[/]")
                self._console.print("The same on the other side? Then nobody reads along.")
            case "/trust":
                await self._client.accept_identity(self._peer)
                self._console.print("The keys seen last are trusted now.")
            case "/attach" if rest:
                path, _, text = rest.partition(" ")
                await self._conversation.send(text, attach=[home(path)])
            case "/save":
                await self._save(rest)
            case "/who":
                for user in await self._conversation.participants():
                    self._console.print(f"  {user}")
            case "/devices":
                await self._linking.show(self._console)
            case "/link" if rest:
                await self._linking.begin(self._console, rest)
            case _:
                if command not in ("/help", "/attach", "/link"):
                    self._console.print(f"There is no {escape(command)}. There are:")
                for line in HELP:
                    self._console.print(f"  {line}", markup=False)

    async def _save(self, rest: str) -> None:
        number, _, path = rest.partition(" ")
        if not number.isdecimal() or not 1 <= int(number) <= len(self._files):
            count = len(self._files)
            self._console.print(f"Which one of {count}? /save N [PATH]" if count else
                                "There is no attachment here yet.")  # fmt: skip
            return
        message, index = self._files[int(number) - 1]
        saved = await message.attachments[index].save(home(path or "."))
        self._console.print(f"saved as {escape(str(saved))}")

    def _typed(self, text: str) -> None:
        now_s = self._now_s()
        if text and not text.startswith("/") and now_s - self._last_typed_s >= TYPING_EVERY_S:
            self._last_typed_s = now_s
            self._conversation.typing(True)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def leave(session: Any) -> None:
    """End the prompt, if one is open."""
    if session.app.is_running:
        session.app.exit()


def home(path: str) -> Path:
    return Path(path).expanduser()
