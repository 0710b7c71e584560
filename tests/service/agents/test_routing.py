"""Messages find their agent by its examples: the real model, through the whole gateway."""

import asyncio
from functools import cache

import pytest

from angarium.agents.agent import Agent, handoff, skill
from angarium.agents.declared import Routing
from angarium.agents.routing.embedders import MiniLm
from angarium.agents.routing.make import make_router
from angarium.agents.routing.worker import EmbedWorker
from angarium.testing.agents import AgentWorld

pytestmark = pytest.mark.slow


def echo(name, *examples, **terms):
    agent = Agent(name, f"is {name}", skills=[skill("it", *examples)], **terms)

    @agent.on_turn
    async def answer(turn):
        return f"{name}: {turn.text}"

    return agent


ORDERS = (
    "where is my order", "track my parcel", "has it shipped yet", "when will it arrive",
    "my package was not delivered",
)  # fmt: skip
BILLING = (
    "i want my money back", "send me an invoice", "you charged me twice",
    "change my payment card", "refund my order please",
)  # fmt: skip


def agents(*more, **terms):
    return [
        echo("concierge"),
        echo("orders", *ORDERS, **terms),
        echo("billing", *BILLING),
        *more,
    ]


@cache
def model():
    return MiniLm()


class World(AgentWorld):
    """With the model, as a node has it."""

    async def __aenter__(self):
        self.worker = EmbedWorker("minilm", model)
        self.router = make_router(self.registry, self.worker)
        await self.router.open()
        return await super().__aenter__()

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        await self.router.close()
        await self.worker.close()

    async def ask(self, text, **where):
        return (await self.say(text, **where))[0].split(":")[0].split()[-1]

    async def reason(self):
        (log,) = self.relay.log.values()
        sequence = max(n for n, sent in enumerate(log, 1) if not sent.body.ref)
        return (await self.turn(sequence)).reason


def test_a_conversation_goes_to_who_its_first_message_is_for_and_stays_there():
    async def scenario():
        async with World(agents()) as world:
            assert await world.ask("can you tell me where my parcel is?") == "orders"
            assert "track my parcel" in await world.reason()
            assert await world.ask("number 1234, bought on monday") == "orders"
            assert await world.ask("thanks!") == "orders"
            assert await world.reason() == "acknowledgement"

    asyncio.run(scenario())


def test_it_changes_hands_when_another_agent_is_clearly_meant():
    async def scenario():
        async with World(agents()) as world:
            await world.ask("where is my order")
            assert await world.ask("please send me the invoice") == "billing"
            assert 'nearest "send me an invoice"' in await world.reason()

    asyncio.run(scenario())


def test_what_is_for_nobody_goes_to_the_fallback():
    async def scenario():
        async with World(agents(echo("host")), routing=Routing(fallback="host")) as world:
            assert await world.ask("what is the tallest mountain of africa") == "host"
            assert (await world.reason()).startswith("out of scope")

    asyncio.run(scenario())


def test_a_reason_never_holds_what_the_person_wrote():
    async def scenario():
        async with World(agents()) as world:
            await world.ask("my zebra parcel 4711, where did it go")
            assert "zebra" not in await world.reason()
            assert "4711" not in await world.reason()

    asyncio.run(scenario())


def test_an_agent_that_does_not_answer_on_a_channel_is_not_chosen_there():
    async def scenario():
        async with World(agents(channels=["app"])) as world:
            assert await world.ask("where is my order", via="whatsapp") != "orders"
            assert await world.ask("@orders where is my order", via="whatsapp") != "orders"
            (listed,) = await world.say("/agents", via="whatsapp")
            assert "@billing" in listed
            assert "@orders" not in listed

    asyncio.run(scenario())


def test_a_message_an_agent_declines_is_routed_again_without_it():
    def declining(name, *examples):
        agent = Agent(name, name, examples=examples)

        @agent.on_turn
        async def decline(turn):
            return handoff("")

        return agent

    async def scenario():
        declines = declining("parcels", "where is my order", "where is my order now")
        async with World([*agents(), declines]) as world:
            assert await world.ask("where is my order now") == "orders"
            reason = await world.reason()
            assert reason.startswith('not for parcels; nearest "where is my order"')

    asyncio.run(scenario())


def test_a_message_that_everybody_declines_ends_with_an_apology():
    async def scenario():
        agent, other = Agent("one", "one"), Agent("other", "other")

        async def decline(turn):
            return handoff("")

        agent.on_turn(decline)
        other.on_turn(decline)
        async with AgentWorld([agent, other]) as world:
            assert await world.say("hello") == [
                "Sorry, no agent here could take this. Nothing was done."
            ]

    asyncio.run(scenario())


def test_a_new_agents_examples_are_used_as_soon_as_they_are_read():
    async def scenario():
        async with World(agents()) as world:
            assert await world.ask("which planets have rings") == "concierge"
            await world.say("/reset")
            planets = echo("planets", "which planet has moons", "how big is the planet saturn")
            world.registry.declare([*agents(), planets])
            await world.router._examples.ready()  # Told by the registry; no message came.
            assert await world.ask("which planets have rings") == "planets"

    asyncio.run(scenario())


def test_an_agent_is_told_the_language_of_the_person_also_for_a_word_and_after_a_restart():
    seen = []
    agent = Agent("one", "one")

    @agent.on_turn
    async def answer(turn):
        seen.append(turn.person.language)
        return "ok"

    async def scenario():
        async with World([agent], routing=Routing(languages=("en", "de"))) as world:
            await world.say("42")
            await world.say("wo ist denn mein Paket geblieben")
            await world.restart()
            await world.say("hm")
            await world.say("I would like to speak english now please")
        assert seen == ["", "de", "de", "en"]

    asyncio.run(scenario())
