"""`angarium chat`: a terminal chat on the SDK, and one question with its answer for scripts."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from angarium.errors import AngariumError, Unavailable
from angarium.sdk.client import Client, Conversation, Message, Piece, TokenSource

EXIT_DONE, EXIT_FAILED, EXIT_NO_ANSWER = 0, 2, 3
HISTORY_SHOWN = 20
QUIET_S = 1.0  # After an answer, how long a further one is waited for.
TYPING_EVERY_S = 3.0
HELP = (
    "/verify              show the safety number of who you talk to",
    "/trust               accept changed keys, after comparing the safety numbers",
    "/attach PATH [TEXT]  send a file",
    "/save N PATH         save attachment N",
    "/who                 who takes part",
    "/help                this list",
    "/quit                leave",
)


def chat(
    *,
    url: str,
    user: str,
    token: TokenSource,
    folder: Path,
    to: str = "",
    say: str | None = None,
    wait_s: float = 30.0,
) -> int:
    """Chat as `user` with `to` (default: the node's gateway); returns the exit code.

    With `say`, or when the input is no terminal (then its text is said), one message is sent,
    its answers are printed, and that is all. `folder` keeps keys and history.
    """
    text = say
    if text is None and not sys.stdin.isatty():
        text = sys.stdin.read().strip()
    try:
        client = Client(url, user=user, token=token, folder=folder)
        return asyncio.run(_run(client, to, text, wait_s))
    except AngariumError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_DONE


async def _run(client: Client, to: str, text: str | None, wait_s: float) -> int:
    async with client:
        peer = to or client.gateway
        conversation = await client.converse(peer)
        if text is not None:
            return await say_once(conversation, text, wait_s)
        await Terminal(client, conversation, peer).run()
        if client.error is not None:
            raise client.error
    return EXIT_DONE


async def say_once(
    conversation: Conversation,
    text: str,
    wait_s: float,
    write: Callable[[str], None] = print,
) -> int:
    """Send one message, write the answers to it. No answer in time is an error."""
    answers = conversation.answers()
    try:
        async with asyncio.timeout(wait_s):
            await conversation.send(text)
    except TimeoutError:
        raise Unavailable("the relay did not take the message in time") from None
    answered = False
    try:
        # The first answer may take a while; further ones (a status, a handoff) follow closely.
        while True:
            async with asyncio.timeout(QUIET_S if answered else wait_s):
                message = await anext(answers)
            if message.problem:
                print(f"{message.problem}: a message could not be opened", file=sys.stderr)
                return EXIT_FAILED
            write(message.text)
            answered = answered or message.body.type != "status"
    except (TimeoutError, StopAsyncIteration):
        pass
    finally:
        await answers.aclose()
    if not answered:
        print("no_answer: nobody answered in time", file=sys.stderr)
        return EXIT_NO_ANSWER
    return EXIT_DONE


class Terminal:
    """The interactive chat: a prompt below, messages above, what is being written between."""

    def __init__(self, client: Client, conversation: Conversation, peer: str) -> None:
        self._client, self._conversation, self._peer = client, conversation, peer
        self._files: list[tuple[Message, int]] = []
        self._writing: dict[str, dict[int, str]] = {}
        self._typing: set[str] = set()
        self._last_typed_s = 0.0
        self._shown = 0
        self._console = Console(highlight=False, soft_wrap=True)

    async def run(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.patch_stdout import patch_stdout

        self._console.print(f"Sealed end to end with [bold]{escape(self._peer)}[/]. /help")
        for message in await self._conversation.history(HISTORY_SHOWN):
            self._show(message)
        session: PromptSession[str] = PromptSession("> ", bottom_toolbar=self._toolbar)
        session.default_buffer.on_text_changed += lambda _: self._typed()
        with patch_stdout(raw=True):
            self._console = Console(
                highlight=False, soft_wrap=True, file=sys.stdout, force_terminal=True
            )
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
                for follower in followers:
                    follower.cancel()
                await asyncio.gather(*followers, return_exceptions=True)

    # --- what comes ---------------------------------------------------------------------------

    async def _follow_messages(self, leave: Callable[[], None]) -> None:
        async for message in self._conversation.messages():
            if message.sequence > self._shown:
                self._writing.pop(message.body.ref, None)
                self._show(message)
                if not message.own:
                    self._conversation.mark_read(message.sequence)
        leave()  # The client has ended: there is nothing to wait for.

    async def _follow_parts(self, redraw: Callable[[], None]) -> None:
        async for piece in self._conversation.stream():
            if isinstance(piece, Piece):
                self._writing.setdefault(piece.ref, {})[piece.index] = piece.text
            else:
                self._writing.pop(piece.body.ref, None)
            redraw()

    async def _follow_events(self, redraw: Callable[[], None]) -> None:
        async for event in self._client.events():
            if event.kind == "typing" and event.conversation == self._conversation.id:
                (self._typing.add if event.on else self._typing.discard)(event.user)
                redraw()

    def _toolbar(self) -> str:
        for parts in self._writing.values():
            text = "".join(parts[index] for index in sorted(parts))
            return text[-400:]
        return f"{', '.join(sorted(self._typing))} is writing ..." if self._typing else ""

    def _show(self, message: Message) -> None:
        self._shown = max(self._shown, message.sequence)
        self._typing.discard(message.sender)
        name = "you" if message.own else message.body.agent or message.body.name
        line = Text(f"{name or message.sender}  ", style="cyan" if message.own else "green")
        if message.problem:
            line.append(f"[{message.problem}: not shown]", style="red")
        line.append(printable(message.text), style="default")
        self._console.print(line)
        if message.gap:
            self._console.print(f"[yellow]{message.gap} earlier message(s) never came[/]")
        for number, option in enumerate(message.body.options, 1):
            self._console.print(f"  {number}. {escape(printable(option))}")
        for index, file in enumerate(message.attachments):
            self._files.append((message, index))
            name = escape(printable(file.name))
            self._console.print(f"  attachment {len(self._files)}: {name}, {file.size:,} bytes")

    # --- what goes ----------------------------------------------------------------------------

    async def _line(self, line: str) -> bool:
        """Carry one line out; False to leave."""
        command, _, rest = line.strip().partition(" ")
        if command == "/quit":
            return False
        try:
            if command.startswith("/"):
                await self._command(command, rest.strip())
            elif line.strip():
                await self._conversation.send(line, wait=False)
        except AngariumError as error:
            self._console.print(f"[red]{error.code}[/] {escape(str(error))}")
        return True

    async def _command(self, command: str, rest: str) -> None:
        match command:
            case "/verify":
                number = await self._client.safety_number(self._peer)
                self._console.print(f"[bold]{number}[/]")
                self._console.print("The same on the other side? Then nobody reads along.")
            case "/trust":
                await self._client.accept_identity(self._peer)
                self._console.print("The keys seen last are trusted now.")
            case "/attach":
                path, _, text = rest.partition(" ")
                await self._conversation.send(text, attach=[home(path)])
            case "/save":
                await self._save(rest)
            case "/who":
                for user in await self._conversation.participants():
                    self._console.print(f"  {user}")
            case _:
                for line in HELP:
                    self._console.print(line, markup=False)

    async def _save(self, rest: str) -> None:
        number, _, path = rest.partition(" ")
        if not number.isdecimal() or not 1 <= int(number) <= len(self._files):
            self._console.print("which attachment? /save N PATH")
            return
        message, index = self._files[int(number) - 1]
        saved = await message.attachments[index].save(home(path or "."))
        self._console.print(f"saved as {escape(str(saved))}")

    def _typed(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._last_typed_s >= TYPING_EVERY_S:
            self._last_typed_s = now_s
            self._conversation.typing(True)


def leave(session: Any) -> None:
    """End the prompt, if one is open."""
    if session.app.is_running:
        session.app.exit()


def home(path: str) -> Path:
    return Path(path).expanduser()


def printable(text: str) -> str:
    """Without control characters: what others write must not move this terminal's cursor."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
