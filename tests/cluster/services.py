"""Gateways and bridges in processes of their own, with a person and a phone that wait."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from pymongo import AsyncMongoClient

from angarium.errors import Unavailable
from angarium.sdk.client import Client, Conversation
from angarium.testing.cluster import Cluster
from angarium.testing.phone import PhoneSimulator, ShownMessage

ACCOUNT, TOKEN, NUMBER = "AC" + "5" * 32, "of-a-test-only", "whatsapp:+15550006060"
AGENTS = """
import asyncio

from angarium import Agent

clerk = Agent("clerk", "Says what it was told", on_busy="enqueue")  # Each is answered.

@clerk.on_turn
async def answer(turn):
    await asyncio.sleep(0.05)
    return f"you said {turn.text}"
"""


class Answers:
    """What was asked, when, and each answer that came to it."""

    def __init__(self) -> None:
        self.asked_s: dict[str, float] = {}
        self.came: Counter[str] = Counter()
        self.waits_s: dict[str, float] = {}
        self._news = asyncio.Event()

    def ask(self, text: str) -> None:
        self.asked_s[text] = time.monotonic()

    def take(self, text: str) -> None:
        asked = text.partition("you said ")[2]
        if asked:
            self.came[asked] += 1
            self.waits_s.setdefault(asked, time.monotonic() - self.asked_s[asked])
            self._news.set()

    def refused(self, text: str) -> None:
        """It was not taken: no answer is promised."""
        del self.asked_s[text]

    async def all_came(self, within_s: float) -> None:
        """Wait until there is an answer to all that was asked. Raises AssertionError."""
        try:
            async with asyncio.timeout(within_s):
                while missing := self.asked_s.keys() - self.came.keys():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no answer to {sorted(missing)}") from None

    def median_s(self) -> float:
        return median(self.waits_s.values())

    def longest_s(self) -> float:
        return max(self.waits_s.values(), default=0.0)


def settings_of(folder: Path, phone: PhoneSimulator) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "agents.py").write_text(AGENTS)
    return {
        "agents": str(folder / "agents.py"),
        "twilio_account_sid": ACCOUNT,
        "twilio_auth_token": TOKEN,
        "twilio_sender": NUMBER,
        "twilio_api_base": phone.api_base,
    }


@asynccontextmanager
async def a_phone(answers: Answers) -> AsyncIterator[PhoneSimulator]:
    def shown(message: ShownMessage) -> None:
        answers.take(message.body)

    phone = PhoneSimulator(
        webhook_url="#rc=5&rp=all", account_sid=ACCOUNT, auth_token=TOKEN, our_number=NUMBER,
        on_message=shown, retry_wait_s=0.3,
    )  # fmt: skip
    async with phone:
        yield phone


def aim(phone: PhoneSimulator, nodes: Cluster) -> None:
    """Webhooks go to whichever bridge the balancer picks, again as Twilio would."""
    hooks = nodes.fronts["webhooks"].port
    phone.webhook_url = f"http://127.0.0.1:{hooks}/webhooks/twilio"


@asynccontextmanager
async def a_person(nodes: Cluster, folder: Path, answers: Answers) -> AsyncIterator[Client]:
    """A person in conversation with the agents; every answer is taken."""
    url = f"http://127.0.0.1:{nodes.fronts['api'].port}"
    token = nodes.token("@ada:angarium")
    async with Client(url, user="@ada:angarium", token=token, folder=folder / "ada") as ada:
        talk = await ada.converse(ada.gateway)

        async def listen() -> None:
            async for message in talk.messages():
                if not message.own:
                    answers.take(message.text)

        listening = asyncio.create_task(listen())
        try:
            yield ada
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


class Asking:
    """A person and a phone that ask the agents, one question each at a time."""

    def __init__(self, ada: Client, phone: PhoneSimulator, answers: Answers) -> None:
        self.answers = answers
        self._ada, self._phone = ada, phone
        self._talk: Conversation | None = None
        self._count = 0

    async def once(self) -> None:
        self._count += 1
        person, contact = f"P{self._count}.", f"W{self._count}."
        if self._talk is None:
            self._talk = await self._ada.converse(self._ada.gateway)
        self.answers.ask(person)
        await self._talk.send(person, wait=False)
        self.answers.ask(contact)
        try:
            await self._phone.say(contact)
        except Unavailable:
            self.answers.refused(contact)

    @asynccontextmanager
    async def going_on(self, every_s: float = 0.4) -> AsyncIterator[None]:
        """Both ask again and again meanwhile."""
        asking = asyncio.create_task(self._go_on(every_s))
        try:
            yield
        finally:
            asking.cancel()
            results = await asyncio.gather(asking, return_exceptions=True)
            defects = [e for e in results if isinstance(e, Exception)]
            if defects:
                raise defects[0]

    async def _go_on(self, every_s: float) -> None:
        while True:
            # Whoever is stopped has asked wholly or not at all.
            asked = asyncio.ensure_future(self.once())
            try:
                await asyncio.shield(asked)
            except asyncio.CancelledError:
                await asked
                raise
            await asyncio.sleep(every_s)


async def holder(nodes: Cluster, service: str) -> int:
    """The node that holds the lease of this service's work."""
    name = {"gateway": "mailbox/", "bridge": "bridge/"}[service]
    url = nodes.store_url
    async with AsyncMongoClient[dict[str, str]](url, directConnection=True) as client:
        database = client[url.rpartition("/")[2].partition("?")[0]]
        found = await database["leases"].find_one({"_id": {"$regex": f"^{name}"}})
    for number, node in nodes.nodes.items():
        kept = node.folder / f"owner-{'-'.join(sorted(node.services.split()))}"
        if found and kept.exists() and found["owner"] == kept.read_text().strip():
            return number
    return -1
