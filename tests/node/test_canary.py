"""Words that people wrote are found nowhere in what the node keeps, logs or shows."""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from angarium.channels.twilio_account import development_twilio
from angarium.sdk.client import Client
from angarium.server.auth import SECRET_FILE, mint_token
from angarium.server.http import free_port
from angarium.testing.process import ServedNode

from .nodes import Run, get
from .test_bad_input import phones_of

pytestmark = [pytest.mark.process, pytest.mark.slow]

AGENTS = """
from angarium import Agent

listener = Agent("listener", "Remembers, reads, asks, answers, and fails when told to")

@listener.on_turn
async def listen(turn):
    turn.memory["heard"] = "canarymemory " + turn.text
    if "break" in turn.text:
        raise ValueError("canaryfailure " + turn.text)
    if "ask" in turn.text:
        reply = await turn.ask("canaryquestion " + turn.text, ("canaryoption", "none"))
        kept = await turn.tools.call("canarytool", "keyed", keep, reply)
        return "canaryreply " + kept
    read = [(await each.read()).decode() for each in turn.attachments]
    return "canaryreply " + turn.text + "".join(read)

async def keep(key):
    return "canaryresult"
"""
PAGES = ["audit", "turns", "outbox", "webhooks/dead"]
CONTROL = "@found-by-the-search:angarium"  # Who takes part is known to the relay, and must be.
NUMBER = "+15550917342"
PROFILE = "Canaryprofile Person"
SECRET_FILES = {SECRET_FILE, "twilio-dev.json", "kms.json", "keys.json"}


def forms(canary: str) -> set[bytes]:
    """The ways in which a text may lie somewhere, in lower case."""
    raw = canary.encode()
    found = {raw, canary.encode("utf-16-le"), raw.hex().encode(), quote(canary).encode()}
    for before in range(3):
        # Base64 of a longer text that holds it: without the characters its ends share.
        packed = base64.b64encode(b"\0" * before + raw)
        inner = packed[-(-before * 4 // 3) : len(packed) - 4].rstrip(b"=")
        found |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return {form.lower() for form in found if len(form) >= 8}


@dataclass
class Search:
    """Bytes by the place they were found in; a canary is looked for in all of them."""

    places: dict[str, bytes] = field(default_factory=dict)

    def add(self, place: str, content: bytes) -> None:
        self.places[place] = content.lower()

    def add_folder(self, name: str, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name not in SECRET_FILES:
                self.add(f"{name}/{path.relative_to(folder)}", path.read_bytes())

    def find(self, canary: str) -> list[str]:
        wanted = forms(canary)
        return [
            place
            for place, content in self.places.items()
            if any(form in content for form in wanted)
        ]

    def assert_absent(self, canaries: Iterable[str]) -> None:
        found = {canary: places for canary in canaries if (places := self.find(canary))}
        assert not found


def test_the_search_finds_what_is_hidden_in_the_usual_ways() -> None:
    canary = "Canaryreply to x"
    for number, hidden in enumerate(
        [
            canary.upper().encode(),
            json.dumps({"a": canary}).encode(),
            canary.encode("utf-16-le"),
            canary.encode().hex().encode(),
            quote(canary).encode(),
            *(base64.b64encode(b"z" * n + canary.encode() + b"tail") for n in range(6)),
            *(base64.urlsafe_b64encode(b"z" * n + canary.encode()) for n in range(6)),
        ]
    ):
        search = Search({"here": b"before" + hidden.lower() + b"after", "there": b"nothing"})
        assert search.find(canary) == ["here"], number


async def talk(node: ServedNode, place: Path, tokens: dict[str, str]) -> None:
    """People with each other and with an agent: text, a file, a question, a failure."""
    carol = Client(
        node.http_url, user=CONTROL, token=tokens[CONTROL], folder=place / "clients" / "carol"
    )
    dave = Client(
        node.http_url, user="@dave:angarium", token=tokens["@dave:angarium"],
        folder=place / "clients" / "dave",
    )  # fmt: skip
    (place / "canaryfile.txt").write_text("canarycontent of a file " * 100)
    async with carol, dave:
        between = await carol.converse("@dave:angarium")
        await between.send("canarychat from carol", attach=[place / "canaryfile.txt"])
        theirs = dave.conversation(between.id)
        async for message in theirs.messages():
            assert message.text == "canarychat from carol"
            saved = await message.attachments[0].save(place / "saved.txt")
            assert saved.read_text().startswith("canarycontent")
            break
        answers = between.answers()
        await theirs.send("canarychat from dave")
        assert (await anext(answers)).text == "canarychat from dave"

        agent = await carol.converse("@gateway:angarium")
        answers = agent.answers()
        await agent.send("canaryplain", attach=[place / "canaryfile.txt"])
        assert (await anext(answers)).text.startswith("canaryreply canaryplaincanarycontent")
        await agent.send("ask canaryaside")
        assert (await anext(answers)).text.startswith("canaryquestion ask canaryaside")
        await agent.send("canaryoption")
        assert (await anext(answers)).text == "canaryreply canaryresult"
        await agent.send("break canarybroken")
        assert "canary" not in (await anext(answers)).text  # An apology without details.
        await agent.send("ask canaryopen")  # This question stays open.
        assert (await anext(answers)).text.startswith("canaryquestion ask canaryopen")


async def write_by_whatsapp(node: ServedNode) -> None:
    async with phones_of(node) as phones:
        for number, text in enumerate(
            ["canarywhatsapp", "break canarybroken", "ask canaryopen"]
        ):
            await phones.say(text, NUMBER, ProfileName=PROFILE)
            await phones.next_reply(NUMBER, after=number)
        await phones.settled()
        phones.faults.api.append("63016")  # Refused: kept as failed, shown to operators.
        await phones.say("canaryrefused", NUMBER, ProfileName=PROFILE)
        await phones.settled()


async def journey(place: Path, search: Search) -> list[str]:
    """Everything people do, while and after which all places are looked at; the secrets."""
    (place / "agents.py").write_text(AGENTS)
    settings = {
        "agents": str(place / "agents.py"),
        "log_level": "debug",
        "rate_per_minute": "10000",
        "phone_port": str(free_port("127.0.0.1")),
    }
    node = ServedNode(place / "node", settings=settings)
    await node.start()
    try:
        users = [CONTROL, "@dave:angarium"]
        tokens = {user: mint_token(node.folder, user) for user in users}
        operator = mint_token(node.folder, "@operator:angarium", ("user", "admin"))
        await talk(node, place, tokens)
        await write_by_whatsapp(node)
        for page in PAGES:
            bearer = {"Authorization": f"Bearer {operator}"}
            shown = await get(node, f"/v1/admin/{page}", headers=bearer)
            assert shown.status_code == 200
            search.add(f"page {page}", shown.content)
        for page in ("/metrics", "/readyz", "/openapi.json", "/.well-known/angarium"):
            search.add(f"page {page}", (await get(node, page)).content)
        search.add_folder("running", node.folder)
        assert await node.stop() == 0
    finally:
        await node.kill()
    search.add_folder("stopped", node.folder)
    search.add_folder("clients", place / "clients")
    search.add("log", node.log_text().encode())
    account, twilio_token, _ = development_twilio(node.folder)
    secret = (node.folder / SECRET_FILE).read_text().strip()
    basic = base64.b64encode(f"{account}:{twilio_token}".encode()).decode()
    return [*tokens.values(), operator, secret, twilio_token, basic]


def test_no_word_no_number_and_no_token_is_found_in_what_the_node_keeps_and_shows(
    run: Run, tmp_path: Path
) -> None:
    search = Search()
    secrets = run(journey(tmp_path, search))
    # The search finds what is allowed to be there, in the store, its log and an answer:
    known = search.find(CONTROL)
    for place in ("running/angarium.db", "stopped/angarium.db", "page audit"):
        assert [name for name in known if name.startswith(place)], place
    assert any(name.startswith("running/blobs/") for name in search.places)
    assert search.find("node.started") == ["log"]
    assert search.places["page turns"].count(b'"state"') >= 5

    words = ["chat", "file", "content", "plain", "reply", "aside", "question", "option", "tool"]
    words += ["result", "memory", "failure", "broken", "open", "whatsapp", "refused", "profile"]
    search.assert_absent([f"canary{word}" for word in words])
    search.assert_absent([NUMBER, NUMBER[1:], NUMBER[2:], PROFILE])
    search.assert_absent(secrets)
    search.assert_absent(["canary"])  # Whatever was left out above.
