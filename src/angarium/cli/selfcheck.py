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
            out.print(f"  [cyan]person[/]  {QUESTION}")
            started_s = time.monotonic()
            await talk.send(QUESTION)
            device = await own_device(node.store.vault, node.gateway_user)
            stored = await node.store.log.read(talk.id, device, 1, 1, 1)
            sealed = next(iter(stored[0].to.values()))
            out.print(f"  [dim]relay   {sealed[:24].hex()}... ({len(sealed)} bytes)[/]")
            async for message in talk.answers():
                took_ms = (time.monotonic() - started_s) * 1000
                out.print(
                    f"  [green]{message.body.agent or 'agent'}[/]   {_preview(message.text)}"
                )
                out.print(f"  [dim]answered and stored in {took_ms:.0f} ms[/]")
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
        out.print(f"  [cyan]phone[/]   {WHATSAPP_QUESTION}")
        await phones.say(WHATSAPP_QUESTION, phone)
        reply = await phones.next_reply(phone, wait_s=ANSWER_WAIT_S)
        out.print(f"  [green]agent[/]   {_preview(reply.body)}")
        await phones.settled()
        out.print(f"  [dim]webhook stored before its 204; reply {reply.status}[/]")


def _preview(text: str) -> str:
    flat = " ".join(text.split())
    shown = flat if len(flat) <= PREVIEW_CHARS else flat[: PREVIEW_CHARS - 1] + "…"
    return escape(shown)


def _say_how(out: Console) -> None:
    out.print("Talk to the agents from another terminal:")
    out.print("  [bold].venv/bin/angarium chat[/]    end-to-end encrypted")
    out.print("  [bold].venv/bin/angarium phone[/]   as a WhatsApp user")
    out.print("[dim]Ctrl-C drains and stops.[/]")
