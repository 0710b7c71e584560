"""`angarium phone`: a WhatsApp phone in the terminal, for a node running in development."""

import asyncio
import secrets
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.patch_stdout import patch_stdout
from rich.console import Console
from rich.markup import escape

from angarium.channels.twilio_account import development_twilio
from angarium.cli.screen import show_line
from angarium.errors import AngariumError, Unavailable
from angarium.testing.phone import DEFAULT_NUMBER, PhoneSimulator, ShownMessage

WEBHOOK_URL = "http://127.0.0.1:8400/webhooks/twilio"
API_PORT = 8402
RETRIES = "#rc=3&rp=ct,rt,5xx"
TICKS = {"queued": "[dim]o[/]", "sent": "[dim]v[/]", "delivered": "[dim]vv[/]",
         "read": "[cyan]vv[/]"}  # fmt: skip
HELP = "/dup TEXT sends twice   /offline and /online   /number +..   /read   /quit"


def phone(
    *,
    data: Path = Path(".angarium"),
    webhook_url: str = WEBHOOK_URL,
    api_port: int = API_PORT,
    number: str = DEFAULT_NUMBER,
    say: str | None = None,
    wait_s: float = 30.0,
) -> int:
    """Chat as a WhatsApp user. With `say`: send that, print the answer, return 0.

    Raises PortInUse (another phone is open), Unavailable (the node does not answer the webhook,
    or no agent answered within `wait_s`), and what `development_twilio` raises.
    """
    if say is not None:
        print(asyncio.run(_say(data, webhook_url, api_port, number, say, wait_s)))
        return 0
    asyncio.run(_chat(data, webhook_url, api_port, number))
    return 0


async def _say(
    data: Path, webhook_url: str, api_port: int, number: str, text: str, wait_s: float
) -> str:
    account, token, ours = development_twilio(data)
    phones = PhoneSimulator(
        webhook_url=webhook_url + RETRIES, account_sid=account, auth_token=token,
        our_number=ours, api_port=api_port, seed=_fresh_seed(),
    )  # fmt: skip
    async with phones:
        await phones.say(text, number)
        answer = (await phones.next_reply(number, wait_s=wait_s)).body
        with suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await (
                    phones.settled()
                )  # So that the node learns that it was delivered and read.
        return answer


class _Screen:
    """What the phone shows."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def theirs(self, message: ShownMessage) -> None:
        show_line(self._console, "agent", message.body, "bold green")

    def ticks(self, message: ShownMessage) -> None:
        if message.status == "read":
            self._console.print(f"       {TICKS['read']} [dim]read[/]")

    def typing(self, _: str) -> None:
        self._console.print("[dim italic]agent is typing...[/]")

    def note(self, text: str) -> None:
        self._console.print(f"[dim]{escape(text)}[/]")

    def mine(self, ticks: str) -> None:
        self._console.print(f"       {ticks}")


async def _chat(data: Path, webhook_url: str, api_port: int, number: str) -> None:
    account, token, ours = development_twilio(data)
    screen = _Screen()
    phones = PhoneSimulator(
        webhook_url=webhook_url + RETRIES, account_sid=account, auth_token=token,
        our_number=ours, api_port=api_port, seed=_fresh_seed(), on_message=screen.theirs,
        on_status=screen.ticks, on_typing=screen.typing,
    )  # fmt: skip
    async with phones:
        screen.note(f"WhatsApp as {number}, writing to {ours.removeprefix('whatsapp:')}")
        screen.note(HELP)
        session: PromptSession[str] = PromptSession("you    ")
        with patch_stdout(raw=True):
            while True:
                try:
                    line = (await session.prompt_async()).strip()
                except (EOFError, KeyboardInterrupt):
                    return
                if line == "/quit":
                    return
                if line:
                    number = await _obey(line, number, phones, screen)


async def _obey(line: str, number: str, phones: PhoneSimulator, screen: _Screen) -> str:
    """Do what was typed; returns the number to go on with."""
    word, _, rest = line.partition(" ")
    rest = rest.strip()
    try:
        if word == "/number" and rest.startswith("+"):
            screen.note(f"now writing as {rest}")
            return rest
        if word == "/offline":
            phones.offline.add(number)
            screen.note("the phone is offline: messages wait")
        elif word == "/online":
            await phones.go_online(number)
        elif word == "/read":
            await phones.read_all(number)
        elif word == "/dup" and rest:
            form = phones.form(rest, number)
            await phones.post(phones.webhook_url, form)
            await phones.post(phones.webhook_url, form)
            screen.mine(f"{TICKS['delivered']} [dim]delivered twice[/]")
        elif word.startswith("/"):
            screen.note(HELP)
        else:
            await phones.say(line, number)
            screen.mine(TICKS["delivered"])
    except Unavailable as error:
        screen.note(f"not delivered: {error}")
    except AngariumError as error:
        screen.note(f"error[{error.code}]: {error}")
    return number


def _fresh_seed() -> int:
    """Message ids must differ from those of the last run: the node remembers them for days."""
    return secrets.randbits(64)
