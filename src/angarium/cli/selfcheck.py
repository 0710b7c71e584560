"""The self-check of `angarium serve --self-check`: two real exchanges, shown as they happen.

A fresh person's device seals a message and reads the agent's answer; the phone simulator sends
a WhatsApp message and gets its answer. Both go the whole way: wire, store, gateway, agent.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from angarium.channels.twilio_account import development_twilio
from angarium.errors import AngariumError, PortInUse
from angarium.ids import uuid7
from angarium.node import Node
from angarium.sdk.client import Client
from angarium.sdk.stored import own_device
from angarium.testing.phone import PhoneSimulator

QUESTION = "How does delivery work?"
WHATSAPP_QUESTION = "@orders where is my parcel?"
ANSWER_WAIT_S = 30.0
PREVIEW_CHARS = 300


async def show(node: Node, ready_s: float, console: Console | None = None) -> bool:
    """Run both exchanges and print them; False when one fails (said on screen)."""
    out = console or Console(highlight=False)
    out.print(f"\n[bold]Angarium[/] is ready after {ready_s:.1f} s at {node.http_url}\n")
    whole = True
    steps = [("End-to-end encrypted", _sealed)]
    if node.bridge is not None and not node.settings.twilio_account_sid:
        steps.append(("WhatsApp, through the phone simulator", _whatsapp))
    for title, step in steps:
        out.print(f"[bold]{title}[/]")
        try:
            async with asyncio.timeout(ANSWER_WAIT_S):
                await step(node, out)
        except PortInUse:
            out.print("  [dim]skipped: another phone simulator is open[/]")
        except (AngariumError, TimeoutError) as error:
            code = error.code if isinstance(error, AngariumError) else "timeout"
            out.print(f"  [red]failed[/] {code}: {escape(str(error) or 'no answer in time')}")
            whole = False
        out.print()
    if whole:
        _say_how(out)
    return whole


async def _sealed(node: Node, out: Console) -> None:
    user = f"@selfcheck-{uuid7(node.clock.now_ms())[-12:]}:{node.settings.domain}"
    token = node.tokens.mint(user, 600.0)
    with tempfile.TemporaryDirectory(prefix="angarium-selfcheck-") as folder:
        async with Client(node.http_url, user=user, token=token, folder=Path(folder)) as client:
            talk = await client.converse(node.gateway_user)
            _line(out, "person", QUESTION, "cyan")
            started_s = time.monotonic()
            await talk.send(QUESTION)
            device = await own_device(node.store.vault, node.gateway_user)
            stored = await node.store.log.read(talk.id, device, 1, 1, 1)
            sealed = next(iter(stored[0].to.values()))
            shown = f"{sealed[:20].hex()}... {len(sealed)} bytes is all it holds"
            _line(out, "relay", shown, "dim")
            async for message in talk.answers():
                took_ms = (time.monotonic() - started_s) * 1000
                _line(out, message.body.agent or "agent", _preview(message.text), "green")
                _line(out, "", f"answered and stored in {took_ms:.0f} ms", "dim")
                break


async def _whatsapp(node: Node, out: Console) -> None:
    account, token, number = development_twilio(node.settings.data)
    phones = PhoneSimulator(
        webhook_url=f"{node.http_url}/webhooks/twilio#rc=3&rp=ct,rt,5xx",
        account_sid=account,
        auth_token=token,
        our_number=number,
        api_port=node.settings.phone_port,
        seed=time.time_ns() % 1_000_000,
    )
    phone = f"+1555{time.time_ns() % 10_000_000:07d}"
    async with phones:
        _line(out, "phone", WHATSAPP_QUESTION, "cyan")
        await phones.say(WHATSAPP_QUESTION, phone)
        reply = await phones.next_reply(phone, wait_s=ANSWER_WAIT_S)
        _line(out, "agent", _preview(reply.body), "green")
        await phones.settled()
        _line(out, "", f"webhook stored before it was answered; reply {reply.status}", "dim")


def _line(out: Console, name: str, text: str, style: str) -> None:
    """A speaker and what is said, which stays beside the name when it wraps."""
    row = Table.grid(padding=(0, 1))
    row.add_column(width=8)
    row.add_column(overflow="fold")
    row.add_row(Text(name, style), Text(text, "dim" if style == "dim" else ""))
    out.print(Padding(row, (0, 0, 0, 2)))


def _preview(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= PREVIEW_CHARS else flat[: PREVIEW_CHARS - 1] + "…"


def _say_how(out: Console) -> None:
    out.print("Talk to the agents from another terminal:")
    out.print("  [bold].venv/bin/angarium chat[/]    end-to-end encrypted")
    out.print("  [bold].venv/bin/angarium phone[/]   as a WhatsApp user")
    out.print("[dim]Ctrl-C drains and stops.[/]")
