"""The shipped agents behind the real gateway."""

import asyncio
import importlib.util
from pathlib import Path

import pytest

from angarium.agents.registry import load_registry
from angarium.examples import AGENTS, docs_faq
from angarium.examples.orders import DAYS, Shop, make_orders
from angarium.testing.agents import AgentWorld

ROOT = Path(__file__).parents[3]


def talk(agents, *texts, restart=False):
    """What the agents say to each text, in turn; with `restart`, each time after a crash."""

    async def scenario():
        async with AgentWorld(agents) as world:
            said = []
            for text in texts:
                said.append("\n".join(await world.say(text)))
                if restart:
                    await world.restart()
            return said

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("question", "page"),
    [
        ("How does delivery work?", "docs/explanation/delivery.md"),
        ("what does the relay hold, is it encrypted?", "docs/explanation/e2ee.md"),
        ("How do durable questions survive a restart?", "docs/tutorial.md"),
        ("How do I connect WhatsApp with Twilio?", "docs/howto/connect-whatsapp-twilio.md"),
        ("what is a turn?", "docs/glossary.md"),
    ],
)
def test_the_guide_answers_from_the_page_that_knows(question, page):
    (text,) = talk(AGENTS, question)
    assert page in text.partition("See also")[0]
    assert len(text) > 100


@pytest.mark.parametrize("question", ["Who won the world cup?", "giraffes", "asdf qwer"])
def test_the_guide_says_when_it_does_not_know(question):
    (text,) = talk(AGENTS, question)
    assert text.startswith(docs_faq.UNKNOWN)


@pytest.mark.parametrize("text", ["Hello!", "hi", "Good morning"])
def test_the_guide_greets(text):
    assert talk(AGENTS, text) == [docs_faq.WELCOME]


def test_an_order_is_asked_for_looked_up_and_remembered():
    agent = make_orders(Shop())
    assert talk([agent], "where is my parcel?", "1001", "and now?", restart=True) == [
        "Which order number?",
        "Order 1001, a pair of running shoes, is on its way. It arrives on Thursday."
        " To move it, write “change the day”.",
        "Order 1001, a pair of running shoes, is on its way. It arrives on Thursday."
        " To move it, write “change the day”.",
    ]


def test_an_unknown_number_is_asked_again_a_bounded_number_of_times():
    said = talk([make_orders(Shop())], "where is it?", "9999", "8888", "7777", "1001")
    assert said[1] == said[2] == "I do not know that one. Which order number?"
    assert said[3].startswith("I cannot find that order.")
    assert said[4].startswith("Order 1001")


def test_the_delivery_day_is_changed_once():
    shop = Shop()
    said = talk([make_orders(shop)], "change 1002 please", "2", restart=True)
    assert said == [
        "Order 1002, a desk lamp, is being packed. When shall it come?",
        "Done. Order 1002 now comes on Saturday.",
    ]
    assert (shop.find("1002").day, shop.count_changes()) == ("Saturday", 1)


def test_the_delivery_day_may_stay():
    shop = Shop()
    said = talk([make_orders(shop)], "change 1002", DAYS[-1])
    assert said[-1] == "It stays as it is: Friday."
    assert shop.count_changes() == 0


def test_the_shop_does_the_same_key_once():
    shop = Shop()
    assert shop.change_day("key", "1001", "Friday") == "Friday"
    assert shop.change_day("key", "1001", "Monday") == "Friday"
    assert (shop.find("1001").day, shop.count_changes()) == ("Friday", 1)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_every_example_file_can_be_served(path):
    assert load_registry(str(path)).names


def test_the_hello_example_asks_once_and_remembers():
    registry = load_registry(str(ROOT / "examples" / "hello.py"))
    assert talk(list(registry), "hi", "Ada", "hi", restart=True) == [
        "Hello! What is your name?",
        "Nice to meet you, Ada.",
        "Hello again, Ada. You wrote: hi",
    ]


def tutorial_agents():
    import re

    page = (ROOT / "docs" / "tutorial.md").read_text()
    return [
        block
        for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if "from angarium import" in block
    ]


@pytest.mark.parametrize("number", range(len(tutorial_agents())))
def test_the_agents_of_the_tutorial_answer(number, tmp_path):
    path = tmp_path / f"tutorial_{number}.py"
    path.write_text(tutorial_agents()[number])
    texts = ["hello", "4", "1"]
    said = talk(list(load_registry(str(path))), *texts)
    assert all(said)
    assert not [text for text in said if "Sorry" in text]


def test_importing_angarium_imports_nothing_of_it():
    import subprocess
    import sys

    code = "import angarium, sys; print([m for m in sys.modules if m.startswith('angarium.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert importlib.util.find_spec("angarium") is not None
