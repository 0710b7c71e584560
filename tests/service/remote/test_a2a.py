"""Our gateway calls a real A2A agent: whatever it does, the person is answered once."""

import asyncio
import hashlib
import sys

import pytest
from a2a.utils.signing import create_agent_card_signer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from angarium.agents.agent import Agent
from angarium.agents.contract import Terms
from angarium.agents.guard import BROKEN, FLOODED, TIMED_OUT, UNREADABLE, stands_in
from angarium.agents.kinds.a2a import A2AAgent
from angarium.agents.media import NO_FILES, Files
from angarium.agents.remote import Remote
from angarium.agents.turns import Patience
from angarium.agents.ward import Ward
from angarium.clock import ManualClock
from angarium.errors import BadCard, Misconfigured
from angarium.limits import A2A_CARD_KEPT_S
from angarium.testing.agents import AgentWorld

from .a2a_peer import Peer

pytestmark = pytest.mark.slow
SOON = Patience(first_event_s=15, turn_s=20, retry_min_s=0, retry_max_s=0)


async def at_once(_pause_s):
    """Breathe, and do not wait."""
    await asyncio.sleep(0)


def with_peer(scenario, *, agent=None, patience=SOON, **peer_options):
    async def run():
        async with Peer(**peer_options) as peer:
            remote = A2AAgent("remote", peer.url, **(agent or {}))
            try:
                async with asyncio.timeout(60):
                    ward = Ward(peer.ward_clock, sleep=at_once)
                    files = Files(NO_FILES.read, store)
                    async with AgentWorld(
                        [remote], patience=patience, ward=ward, files=files
                    ) as world:
                        await scenario(world, peer, remote)
            finally:
                await remote.close()

    asyncio.run(run())


async def store(plan, data):
    """Take what a reply's file is sealed into, and keep none of it."""
    chunks = [chunk for _, chunk in plan.seal(lambda at, wanted: data[at : at + wanted])]
    return hashlib.sha256(b"".join(chunks)).digest()


async def until(holds):
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.005)


# --- answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("speaks", ["1.0", "rest", "0.3"])
def test_a_streamed_answer_is_the_reply_whatever_the_peer_speaks(speaks):
    async def scenario(world, peer, remote):
        assert await world.say("hello big world") == ["hello big world "]
        assert peer.calls[1:] != []

    with_peer(scenario, speaks=speaks)


def test_an_agent_without_streams_is_polled():
    async def scenario(world, peer, remote):
        peer.behaviour.go_on.set()
        assert await world.say("slow one") == ["one two"]
        assert "GetTask" in peer.calls
        assert "SendMessage" in peer.calls

    with_peer(scenario, streaming=False)


def test_a_peer_may_answer_with_a_message_words_or_artifacts():
    async def scenario(world, peer, remote):
        assert await world.say("message hi") == ["direct message hi"]
        assert await world.say("words") == ["only words"]
        assert await world.say("file please") == ["\na.pdf: https://files.test/a.pdf\n"]
        (cat,) = world.answers()[-1].body.files
        assert (cat.name, cat.content_type, cat.size) == ("cat.png", "image/png", 6)

    with_peer(scenario)


def test_a_conversation_keeps_its_context_and_another_has_its_own():
    async def scenario(world, peer, remote):
        await world.say("one")
        await world.say("two")
        await world.say("three", conversation="01999999-0000-7000-8000-000000000002")
        first, second, third = peer.behaviour.contexts
        assert first == second != third

    with_peer(scenario)


def test_chunks_that_come_twice_are_said_once():
    async def scenario(world, peer, remote):
        assert await world.say("twice") == ["ab"]

    with_peer(scenario)


# --- questions ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"speaks": "0.3"}, {"streaming": False}])
def test_the_next_message_goes_into_the_task_that_asks(options):
    async def scenario(world, peer, remote):
        assert await world.say("ask me") == ["Two orders.\n\nWhich order?"]
        assert await world.say("again") == ["And which size?"]
        assert await world.say("large") == ["done: large"]
        assert peer.behaviour.heard == ["ask me", "again", "large"]
        assert len(peer.handler.task_store._impl.tasks[""]) == 1

    with_peer(scenario, **options)


def test_a_question_waits_through_a_restart():
    async def scenario(world, peer, remote):
        await world.say("sign in")
        await world.gateway.close()
        await world.start()
        assert await world.say("done it") == ["done: done it"]
        assert peer.behaviour.heard == ["sign in", "done it"]

    with_peer(scenario)


# --- who stands in ------------------------------------------------------------------------


def with_another(word):
    other = Agent("other", "Takes the rest")

    @other.on_turn
    async def answer(turn):
        return f"the other: {turn.text}"

    async def run():
        async with Peer() as peer:
            remote = A2AAgent("remote", peer.url, terms=Terms(fallback="other"))
            async with AgentWorld([remote, other]) as world:
                return await world.say(word)

    return asyncio.run(run())


def test_what_an_agent_rejects_goes_to_another():
    assert with_another("reject this") == ["the other: reject this"]


def test_what_an_agent_rejects_and_nobody_takes_is_told():
    async def scenario(world, peer, remote):
        [told] = await world.say("reject this")
        assert "Sorry" in told
        assert "not my job" not in told

    with_peer(scenario)


def test_where_an_agent_fails_its_stand_in_answers_and_says_so():
    assert with_another("fail at this") == [
        f"{stands_in('remote', 'other')}\n\nthe other: fail at this"
    ]


# --- what goes wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("word", ["fail", "crash"])
def test_a_task_that_fails_is_told_in_our_words_and_not_in_the_peers(word):
    async def scenario(world, peer, remote):
        assert await world.say(word) == [BROKEN.sentence]
        assert peer.behaviour.heard == [word]  # Nothing is repeated.

    with_peer(scenario)


@pytest.mark.parametrize("cut_after", [1, 2, 3, 4, 5])
def test_a_stream_that_breaks_is_taken_up_where_it_broke(cut_after):
    async def scenario(world, peer, remote):
        assert await world.say("a b c d e") == ["a b c d e "]
        assert peer.behaviour.heard == ["a b c d e"]

    with_peer(scenario, cut_after=cut_after)


def test_a_stream_that_breaks_while_the_agent_works_is_subscribed_to_again():
    async def scenario(world, peer, remote):
        received = world.write_message("slow one")
        await world.endpoint.receive(received)
        await until(lambda: "SubscribeToTask" in peer.calls)
        peer.behaviour.go_on.set()
        await world.gateway.idle()
        assert world.answers()[-1].body.text == "one two"
        assert peer.behaviour.heard == ["slow one"]

    with_peer(scenario, cut_after=2)


def test_a_turn_that_takes_too_long_cancels_its_task():
    async def scenario(world, peer, remote):
        assert await world.say("slow one") == [TIMED_OUT.sentence]
        await remote.close()
        assert len(peer.behaviour.cancelled) == 1

    with_peer(scenario, patience=Patience(first_event_s=2, turn_s=2))


def test_a_process_that_stops_leaves_its_task_to_the_next_one():
    async def scenario(world, peer, remote):
        await world.endpoint.receive(world.write_message("slow one"))
        await until(lambda: world.endpoint.seen.parts)
        await world.gateway.close()
        await world.start()
        peer.behaviour.go_on.set()
        await world.gateway.idle()
        assert world.answers()[-1].body.text == "one two"
        assert peer.behaviour.heard == ["slow one"]
        assert peer.behaviour.cancelled == []

    with_peer(scenario)


def test_a_reply_of_many_megabytes_is_cut_off_and_told():
    async def scenario(world, peer, remote):
        assert await world.say("huge") == [FLOODED.sentence]

    with_peer(scenario)


def test_a_peer_that_is_away_is_told_and_comes_back():
    async def scenario(world, peer, remote):
        [sorry] = await world.say("hello")
        assert "try again" in sorry
        peer.card_answer = None
        peer.ward_clock.advance(60)
        assert await world.say("hello") == ["hello "]

    with_peer(scenario, card=lambda url: (503, {"retry-after": "0"}, b""))


# --- cards --------------------------------------------------------------------------------

GARBAGE = {
    "no JSON": b"<html>",
    "another JSON": b"[1]",
    "invalid UTF-8": b'{"name": "\xff\xfe"}',
    "too deep": b"[" * 100_000,
    "too large": b'{"name": "' + b"x" * 300_000 + b'"}',
    "wrong types": b'{"name": 7, "skills": "none", "securitySchemes": {"a": 1}}',
    "no address": b'{"name": "peer", "supportedInterfaces": []}',
    "another host": b"""{"name": "peer", "supportedInterfaces": [
        {"url": "https://other.test/a2a", "protocolBinding": "JSONRPC"}]}""",
    "another version": b"""{"name": "peer", "supportedInterfaces": [
        {"url": "%s/a2a", "protocolBinding": "JSONRPC", "protocolVersion": "0.1"}]}""",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_card_that_is_none_is_a_named_error_and_the_person_is_told(name):
    async def scenario(world, peer, remote):
        with pytest.raises(BadCard):
            await remote.open(None)
        assert not remote.ready
        assert await world.say("hello") == [UNREADABLE]
        peer.card_answer = None
        assert await world.say("hello") == ["hello "]
        assert remote.ready

    def card(url):
        body = GARBAGE[name].replace(b"%s", url.encode())
        return 200, {"content-type": "application/json"}, body

    with_peer(scenario, card=card)


def test_a_card_is_fetched_once_and_then_asked_about_by_its_tag():
    async def run():
        clock = ManualClock()
        async with Peer() as peer:
            remote = A2AAgent("remote", peer.url, clock=clock)
            for _ in range(3):
                await remote.open(None)
            assert peer.card_requests == [""]
            clock.advance(A2A_CARD_KEPT_S + 1)
            await remote.open(None)
            assert peer.card_requests[0] == ""
            assert peer.card_requests[1].startswith('W/"')
            # Its server is away: the last card holds.
            peer.card_answer = (503, {}, b"")
            clock.advance(A2A_CARD_KEPT_S + 1)
            await remote.open(None)
            assert len(peer.card_requests) == 3
            assert remote.ready
            # It is replaced by garbage: nobody trusts the last one any more.
            peer.card_answer = (200, {}, b"garbage")
            clock.advance(A2A_CARD_KEPT_S + 1)
            with pytest.raises(BadCard):
                await remote.open(None)
            assert not remote.ready
            await remote.close()

    asyncio.run(run())


def test_an_agent_without_words_of_its_own_has_those_of_its_card():
    async def scenario(world, peer, remote):
        await remote.open(None)
        assert remote.description == "A remote agent"
        assert remote.terms.examples == ("say it again",)

    with_peer(scenario)


KEY, STRANGER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


def pem(key, *, public=True):
    if public:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def signed_by(key, *, alg="ES256", secret=None):
    header = {"kid": "k1", "alg": alg, "jku": None, "typ": "JOSE"}
    return create_agent_card_signer(secret or pem(key, public=False), header)


def test_a_card_signed_with_a_known_key_is_taken():
    async def scenario(world, peer, remote):
        assert await world.say("hello") == ["hello "]

    with_peer(scenario, agent={"keys": {"k1": pem(KEY)}}, sign=signed_by(KEY))


@pytest.mark.parametrize(
    "sign",
    [None, signed_by(STRANGER), signed_by(KEY, alg="HS256", secret="x" * 64)],
    ids=["unsigned", "by another key", "with a shared secret"],
)
def test_a_card_that_no_known_key_has_signed_is_refused(sign):
    async def scenario(world, peer, remote):
        with pytest.raises(BadCard):
            await remote.open(None)
        assert await world.say("hello") == [UNREADABLE]
        assert peer.behaviour.heard == []

    keys = {"k1": pem(KEY) if sign is not None else "x" * 64}
    with_peer(scenario, agent={"keys": keys}, sign=sign)


# --- secrets and addresses ----------------------------------------------------------------


def test_the_key_goes_with_every_call_of_the_agent():
    async def scenario(world, peer, remote):
        await world.say("hello")
        assert set(peer.tokens) == {"Bearer sesame"}

    with_peer(scenario, agent={"api_key": SecretStr("sesame")})


def test_no_redirect_is_followed():
    async def scenario(world, peer, remote):
        with pytest.raises(BadCard):
            await remote.open(None)

    with_peer(scenario, card=lambda url: (302, {"location": url + "/else"}, b""))


@pytest.mark.parametrize("url", ["ftp://host.test", "host.test", "http://", "http://a:99999"])
def test_an_address_that_is_none_is_a_clear_sentence(url):
    with pytest.raises(Misconfigured):
        Remote.a2a("remote", url)


def test_without_the_extra_a_sentence_says_how_to_get_it(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "a2a"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "angarium.agents.kinds.a2a_line", raising=False)
    monkeypatch.setitem(sys.modules, "a2a", None)
    with pytest.raises(Misconfigured, match=r"pip install 'angarium\[a2a\]'"):
        Remote.a2a("remote", "http://host.test")
