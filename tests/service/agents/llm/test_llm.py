"""LLM agents as people see them: the real gateway, a model that follows a script."""

import asyncio

import pytest

pytest.importorskip("pydantic_ai")

from pydantic import BaseModel
from pydantic_ai import Agent as FrameworkAgent
from pydantic_ai import ModelResponse, ModelRetry, models
from pydantic_ai.exceptions import (
    ModelAuthenticationError,
    ModelHTTPError,
    ModelRateLimitError,
    ModelServerError,
)
from pydantic_ai.models.function import FunctionModel

from angarium.agents.agent import Agent
from angarium.agents.approvals import APPROVE
from angarium.agents.contract import ToolCall, ToolResult
from angarium.agents.guard import TOO_DEAR
from angarium.agents.kinds.llm import LLM
from angarium.agents.toolbox import tool
from angarium.agents.turns import Patience
from angarium.clock import ManualClock
from angarium.errors import Misconfigured, RateLimited, TurnOverBudget, Unavailable
from angarium.limits import (
    APPROVAL_ARGUMENTS_CHARS_MAX,
    APPROVAL_KEPT_S,
    TOOL_RESULT_BYTES_MAX,
)
from angarium.testing.agents import AgentWorld
from angarium.testing.scripted import results, scripted

from .turns import one_turn

models.ALLOW_MODEL_REQUESTS = False
AT_ONCE = Patience(first_event_s=20, turn_s=20, retry_min_s=0, retry_max_s=0)


class Till:
    """What tools did to the world."""

    def __init__(self):
        self.paid: list[tuple[str, int]] = []

    def tools(self, **pay_options):
        @tool(effect="keyed", name="pay", **pay_options)
        async def pay(ctx, cents: int) -> str:
            """Pay an amount."""
            self.paid.append((ctx.idempotency_key, cents))
            return f"paid {cents}"

        @tool(effect="read")
        async def look_up(ctx, order: str) -> dict:
            """Look an order up."""
            return {"order": order, "from": ctx.person.user}

        return [pay, look_up]


def in_world(scenario, llm, *others):
    async def run():
        async with AgentWorld([llm, *others], patience=AT_ONCE) as world:
            await scenario(world)
        await llm.close()

    asyncio.run(run())


def shop(*steps, tools=(), **settings):
    return LLM("shop", "sells", model=scripted(*steps), tools=tools, **settings)


# --- text ----------------------------------------------------------------------------


def test_a_model_answers_in_its_own_words():
    async def scenario(world):
        assert await world.say("hi") == ["Good day to you."]

    in_world(scenario, shop("Good day to you."))


def test_a_model_is_told_its_prompt_and_what_was_said_before():
    seen = []

    def step(messages, info):
        said = [part.content for message in messages for part in message.parts]
        seen.append((info.instructions, said))
        return f"answer {len(seen)}"

    async def scenario(world):
        await world.say("one")
        await world.say("two")
        assert seen[1][1] == ["one", "answer 1", "two"]
        assert seen[1][0].startswith("You sell.")

    in_world(scenario, shop(step, prompt="You sell."))


# --- tools ---------------------------------------------------------------------------


def test_a_tool_runs_and_its_result_reaches_the_model_as_marked_material():
    till = Till()

    def tell(messages, _info):
        result = results(messages)["look_up"]
        assert result.startswith("<untrusted-")
        return "found " + result.split("\n")[1]

    async def scenario(world):
        answer = ['Wait.\n\nfound {"order":"A1","from":"@ada:test"}']
        assert await world.say("hi") == answer

    in_world(scenario, shop(["Wait.", ("look_up", {"order": "A1"})], tell, tools=till.tools()))


def test_an_overlong_result_is_cut_before_the_model_reads_it():
    @tool(effect="read")
    async def dump(ctx) -> str:
        return "x" * 10_000_000

    def tell(messages, _info):
        return str(len(results(messages)["dump"]) < TOOL_RESULT_BYTES_MAX + 500)

    async def scenario(world):
        assert await world.say("hi") == ["True"]

    in_world(scenario, shop(("dump", {}), tell, tools=[dump]))


def test_a_tool_that_fails_is_a_named_error_to_the_model_and_no_secret():
    @tool(effect="read")
    async def fetch(ctx) -> str:
        raise ValueError("password hunter2")

    async def scenario(world):
        (answer,) = await world.say("hi")
        assert answer.startswith("tool_error: ")
        assert "ValueError" in answer
        assert "hunter2" not in answer

    step = ("fetch", {})
    in_world(scenario, shop(step, lambda m, _i: results(m)["fetch"], tools=[fetch]))


def test_a_once_tool_whose_connection_breaks_is_an_unknown_outcome():
    tries = []

    @tool(effect="once")
    async def fax(ctx) -> str:
        tries.append(1)
        raise ConnectionResetError

    async def scenario(world):
        (answer,) = await world.say("hi")
        assert answer.startswith("outcome_unknown: ")
        assert tries == [1]

    in_world(scenario, shop(("fax", {}), lambda m, _i: results(m)["fax"], tools=[fax]))


def test_a_keyed_tool_is_tried_again_with_the_same_key():
    keys = []

    @tool(effect="keyed")
    async def pay(ctx) -> str:
        keys.append(ctx.idempotency_key)
        if len(keys) < 3:
            raise Unavailable("not now", after_ms=1)
        return "paid"

    async def scenario(world):
        (answer,) = await world.say("hi")
        assert "paid" in answer
        assert len(set(keys)) == 1
        assert len(keys) == 3

    in_world(scenario, shop(("pay", {}), lambda m, _i: results(m)["pay"], tools=[pay]))


def test_a_tool_may_ask_the_model_to_try_again():
    given = []

    @tool(effect="keyed")
    async def pay(ctx, cents: int) -> str:
        given.append(cents)
        if cents > 10:
            raise ModelRetry("at most 10")
        return "paid"

    async def scenario(world):
        (answer,) = await world.say("hi")
        assert "paid" in answer
        assert given == [50, 5]

    steps = (("pay", {"cents": 50}), ("pay", {"cents": 5}))
    in_world(scenario, shop(*steps, lambda m, _i: results(m)["pay"], tools=[pay]))


def test_wrong_arguments_go_back_to_the_model_and_the_tool_does_not_run():
    till = Till()

    async def scenario(world):
        assert await world.say("hi") == ["done"]
        assert [cents for _key, cents in till.paid] == [5]

    steps = (("pay", {"cents": "many"}), ("pay", {"cents": 5}), "done")
    in_world(scenario, shop(*steps, tools=till.tools()))


def test_a_model_that_reuses_call_ids_still_gets_each_calls_own_result():
    till = Till()
    paid = []

    def step(messages, _info):
        paid.append(results(messages).get("pay"))
        return "done"

    def call(cents):
        from pydantic_ai.models.function import DeltaToolCall

        return {0: DeltaToolCall("pay", f'{{"cents": {cents}}}', tool_call_id="same")}

    async def stream(messages, info):
        made = sum(isinstance(message, ModelResponse) for message in messages)
        if made < 2:
            yield call(made + 1)
        else:
            yield step(messages, info)

    async def scenario(world):
        assert await world.say("hi") == ["done"]
        assert [cents for _key, cents in till.paid] == [1, 2]

    llm = LLM("shop", "s", model=FunctionModel(stream_function=stream), tools=till.tools())
    in_world(scenario, llm)


def test_the_call_after_the_last_allowed_one_is_refused_and_the_model_answers():
    till = Till()

    async def scenario(world):
        (answer,) = await world.say("hi")
        assert "over_budget" in answer
        assert len(till.paid) == 2

    steps = [("pay", {"cents": cents}) for cents in (1, 2, 3)]
    llm = shop(*steps, lambda m, _i: results(m)["pay"], tools=till.tools(), max_tool_calls=2)
    in_world(scenario, llm)


def test_a_model_that_only_calls_tools_is_stopped():
    till = Till()

    async def scenario(world):
        (answer,) = await world.say("hi")
        assert answer == TOO_DEAR.sentence
        assert len(till.paid) == 2

    in_world(scenario, shop(("pay", {"cents": 1}), tools=till.tools(), max_tool_calls=2))


# --- approvals -----------------------------------------------------------------------


def pays(*, then=lambda messages, _info: results(messages)["pay"], cents=5, **settings):
    till = Till()
    steps = (["Let me see.", ("pay", {"cents": cents})], then)
    return till, shop(*steps, tools=till.tools(requires_approval=True), **settings)


def test_a_tool_that_needs_approval_waits_for_it_and_runs_once_through_a_restart():
    till, llm = pays()

    async def scenario(world):
        (question,) = await world.say("pay!")
        assert question.startswith("Let me see.\n\nMay I run pay with\n- cents: 5\n")
        assert till.paid == []
        await world.restart()
        (answer,) = await world.say("approve")
        assert "paid 5" in answer
        assert "Let me see" not in answer
        assert len(till.paid) == 1

    in_world(scenario, llm)


def test_a_denied_tool_does_not_run_and_the_model_is_told():
    till, llm = pays()

    async def scenario(world):
        await world.say("pay!")
        (answer,) = await world.say("2")
        assert answer.startswith("denied: ")
        assert till.paid == []

    in_world(scenario, llm)


def test_another_answer_than_yes_is_no():
    till, llm = pays()

    async def scenario(world):
        await world.say("pay!")
        (answer,) = await world.say("yes, but only 3 cents")
        assert answer.startswith("denied: the person did not approve but wrote: yes, but")
        assert till.paid == []

    in_world(scenario, llm)


def test_an_approval_that_comes_too_late_counts_as_none():
    clock = ManualClock()
    till, llm = pays(clock=clock)

    async def scenario(world):
        await world.say("pay!")
        clock.advance(APPROVAL_KEPT_S + 1)
        (answer,) = await world.say(APPROVE)
        assert answer.startswith("expired: ")
        assert till.paid == []

    in_world(scenario, llm)


def test_a_changed_argument_needs_an_approval_of_its_own():
    till = Till()
    steps = (("pay", {"cents": 5}), ("pay", {"cents": 500}), "done")
    llm = shop(*steps, tools=till.tools(requires_approval=True))

    async def scenario(world):
        await world.say("pay!")
        (second,) = await world.say("1")
        assert "- cents: 500" in second
        assert await world.say("2") == ["done"]
        assert [cents for _key, cents in till.paid] == [5]

    in_world(scenario, llm)


def test_what_is_too_long_to_be_shown_nobody_is_asked_to_approve():
    @tool(requires_approval=True)
    async def post(ctx, text: str) -> str:
        raise AssertionError("never approved")

    text = "x" * (APPROVAL_ARGUMENTS_CHARS_MAX + 1)

    async def scenario(world):
        (answer,) = await world.say("go")
        assert answer.startswith("denied: the arguments are too long")

    step = ("post", {"text": text})
    in_world(scenario, shop(step, lambda m, _i: results(m)["post"], tools=[post]))


# --- passing on, models, budgets ------------------------------------------------------


def test_a_model_passes_a_conversation_on_to_whom_it_may():
    orders = Agent("orders", "knows orders")

    @orders.on_turn
    async def answer(turn):
        return f"orders here: {turn.text}"

    async def scenario(world):
        assert await world.say("where is it") == ["orders here: where is it"]

    llm = shop(("hand_off", {"to": "orders", "reason": "not mine"}), can_handoff=["orders"])
    in_world(scenario, llm, orders)


def test_a_model_cannot_pass_a_conversation_to_anybody_else():
    async def scenario(world):
        assert await world.say("where is it") == ["then I answer"]

    steps = (("hand_off", {"to": "root"}), "then I answer")
    in_world(scenario, shop(*steps, can_handoff=["orders"]))


def failing(error, name="first"):
    async def stream(_messages, _info):
        raise error
        yield ""

    return FunctionModel(stream_function=stream, model_name=name)


def api_error(kind, status, **more):
    return ModelHTTPError.for_category(kind, status_code=status, model_name="m", **more)


def test_while_a_model_fails_the_next_one_answers():
    async def scenario(world):
        assert await world.say("hi") == ["I stand in."]

    broken = failing(api_error(ModelServerError, 503))
    in_world(scenario, LLM("shop", "s", model=[broken, scripted("I stand in.")]))


def collect(llm, text="hi", **fields):
    """The events of one turn outside of any gateway."""

    async def run():
        try:
            return [event async for event in llm.run(one_turn(text, **fields))]
        finally:
            await llm.close()

    return asyncio.run(run())


def test_a_provider_that_is_over_its_rate_says_when_to_come_again():
    error = api_error(ModelRateLimitError, 429, retry_after=7.5)
    with pytest.raises(RateLimited) as found:
        collect(LLM("shop", "s", model=failing(error)))
    assert found.value.after_ms == 7500


def test_a_provider_that_is_down_is_unavailable():
    with pytest.raises(Unavailable):
        collect(LLM("shop", "s", model=failing(api_error(ModelServerError, 500))))


def test_a_refused_key_is_the_operators_to_mend_and_is_not_shown(caplog):
    error = api_error(ModelAuthenticationError, 401, body={"key": "sk-secret"})
    with pytest.raises(Misconfigured, match="refused the key") as found:
        collect(LLM("shop", "s", model=failing(error)))
    assert "sk-secret" not in str(found.value) + caplog.text
    assert "refused the key" in caplog.text


def test_a_model_without_a_key_is_named_with_what_to_set(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(Misconfigured, match="OPENAI_API_KEY"):
        collect(LLM("shop", "s", model="openai:gpt-5.2"))


def test_an_unknown_model_is_named():
    with pytest.raises(Misconfigured, match="nobody:model"):
        collect(LLM("shop", "s", model="nobody:model"))


def test_usage_and_tool_calls_are_told_to_the_gateway():
    till = Till()
    events = collect(shop(("look_up", {"order": "A1"}), "done", tools=till.tools()))
    assert [type(event).__name__ for event in events] == [
        "Usage",
        "ToolCall",
        "ToolResult",
        "Text",
        "Usage",
        "Done",
    ]
    assert events[1] == ToolCall(events[1].id, "look_up")
    assert events[2] == ToolResult(events[1].id)
    assert events[0].requests == 1
    assert events[0].output_tokens > 0
    assert events[0].model == "scripted"


def test_a_turn_that_has_used_its_tokens_asks_no_more():
    till = Till()
    llm = shop(("look_up", {"order": "A1"}), "done", tools=till.tools(), budget_tokens=1)
    with pytest.raises(TurnOverBudget):
        collect(llm)


def test_a_turn_that_has_used_its_money_asks_no_more():
    till = Till()
    step = ("look_up", {"order": "A1"})
    model = scripted(step, "done", name="gpt-4o")
    llm = LLM("shop", "s", model=model, tools=till.tools(), budget_usd=0.000001)
    with pytest.raises(TurnOverBudget):
        collect(llm)


# --- a person's model ------------------------------------------------------------------


def test_a_person_chooses_a_model_for_this_conversation():
    async def scenario(world):
        assert await world.say("hi") == ["large"]
        (listed,) = await world.say("/model")
        assert "- first (now)\n- second\n" in listed
        assert await world.say("/model second") == ["From now on second answers you here."]
        assert await world.say("hi") == ["small"]
        (unknown,) = await world.say("/model third")
        assert unknown.startswith("There is no model 'third' here.")
        assert await world.say("hi") == ["small"]

    both = [scripted("large", name="first"), scripted("small", name="second")]
    in_world(scenario, LLM("shop", "s", model=both))


def test_models_are_not_told_what_was_said_about_models():
    seen = []

    def step(messages, _info):
        seen.append([part.content for message in messages for part in message.parts])
        return "ok"

    async def scenario(world):
        await world.say("/model")
        await world.say("hi")
        assert seen == [["hi"]]

    in_world(scenario, shop(step))


# --- an agent of the framework ---------------------------------------------------------


def test_an_agent_of_the_framework_is_journalled_like_ours():
    done = []
    own = FrameworkAgent(scripted(["Well.", ("pay", {"cents": 5})], "done"), name="own")

    @own.tool_plain(requires_approval=True)
    async def pay(cents: int) -> str:
        done.append(cents)
        return "paid"

    crew = Agent.from_pydantic_ai(own, name="crew", description="pays")

    async def scenario(world):
        (question,) = await world.say("pay")
        assert question.startswith("Well.\n\nMay I run pay with\n- cents: 5")
        await world.restart()
        assert await world.say("approve") == ["done"]
        assert done == [5]

    in_world(scenario, crew)


def test_what_an_agent_of_the_framework_gives_is_shown_as_json():
    class City(BaseModel):
        name: str

    own = FrameworkAgent(scripted(("final_result", {"name": "Oslo"})), output_type=City)
    crew = Agent.from_pydantic_ai(own, name="crew", description="knows cities")

    async def scenario(world):
        assert await world.say("where") == ['{"name":"Oslo"}']

    in_world(scenario, crew)


def test_only_agents_of_the_framework_are_adopted():
    with pytest.raises(Misconfigured, match="pydantic_ai"):
        collect(Agent.from_pydantic_ai(object(), name="crew", description="x"))


# --- declaring -------------------------------------------------------------------------


def test_without_its_packages_an_llm_agent_says_what_to_install(monkeypatch):
    monkeypatch.setattr("angarium.agents.kinds.llm.find_spec", lambda name: None)
    with pytest.raises(Misconfigured, match=r"angarium\[llm\]"):
        LLM("shop", "sells", model="openai:gpt-5.2")


def test_only_tools_are_tools():
    async def plain(ctx):
        return ""

    with pytest.raises(Misconfigured, match="@tool"):
        LLM("shop", "sells", model="test", tools=[plain])


def test_two_models_of_one_name_are_refused():
    with pytest.raises(Misconfigured, match="different"):
        LLM("shop", "sells", model=["openai:a", "openai:a"])


def test_a_tools_status_reaches_the_person():
    @tool(effect="read")
    async def slow(ctx) -> str:
        await ctx.status("looking")
        return "ok"

    async def scenario(world):
        await world.say("hi")
        parts = [part.body for part in world.endpoint.seen.parts]
        assert "looking" in [body.text for body in parts if body.type == "status"]

    in_world(scenario, shop(("slow", {}), "done", tools=[slow]))
