"""The accuracy part of `bench route`, with the real model on a few messages."""

import asyncio
import json

import pytest

from angarium.agents.declared import Routing
from angarium.agents.routing.make import make_worker
from angarium.errors import Misconfigured
from angarium.testing.bench import BenchOptions, run
from angarium.testing.bench import route_accuracy as accuracy

pytestmark = pytest.mark.slow
EXAMPLES = [
    ("orders", "where is my order"),
    ("orders", "track my parcel"),
    ("orders", "has it shipped"),
    ("billing", "send me an invoice"),
    ("billing", "refund my money"),
    ("billing", "you charged me twice"),
]
DIALOGUE = [
    ("orders", "where is my parcel"),
    ("orders", "thanks"),
    ("orders", "it was number twelve"),
    ("billing", "now refund my money please"),
    ("billing", "ok"),
]


def lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def message(agent, text):
    return {"agent": agent, "text": text}


def measure(**files):
    async def scenario():
        worker = make_worker(Routing(embedder="minilm"))
        try:
            options = BenchOptions(1.0, lambda what, share: None, **files)
            return await accuracy.measure(options, worker)
        finally:
            await worker.close()

    return asyncio.run(scenario())


def test_ones_own_messages_and_dialogues_are_measured(tmp_path):
    examples = lines(tmp_path / "examples", [message(*one) for one in EXAMPLES])
    tried = lines(
        tmp_path / "eval",
        [
            message("orders", "where is my parcel now"),
            message("billing", "refund my money"),
            message("billing", "track my parcel please"),  # Wrong on purpose.
            message("", "what is the tallest mountain of africa"),
            [message(*one) for one in DIALOGUE],
        ],
    )

    figures = measure(examples=examples, evaluate=tried)

    assert figures == {
        "single_accuracy": 0.75,
        "dialogue_accuracy": 1.0,
        "dialogue_first_accuracy": 1.0,
        "dialogue_turns_that_switch": 0.25,
        "dialogue_kept": 1.0,
        "dialogue_switched": 1.0,
        "dialogue_wrong_switches": 0.0,
    }


def test_clinc_is_measured_from_its_folder(tmp_path):
    things = {"bank": "money", "trip": "flight", "food": "recipe"}
    said = ["where is the {}", "my {} please", "a new {}", "this {} is bad", "which {} is best"]
    train = [
        [s.format(t) + " " * n, t] for t in things.values() for n in range(20) for s in said
    ]
    test = [[f"one more {thing}", thing] for thing in things.values()]
    full = {"train": train, "test": test, "oos_test": [["how tall is the tower", "oos"]]}
    (tmp_path / "data_full.json").write_text(json.dumps(full))
    domains = {domain: [thing] for domain, thing in things.items()}
    (tmp_path / "domains.json").write_text(json.dumps(domains))

    figures = measure(data=tmp_path)

    assert set(figures) == {
        "clinc10_20shot", "clinc10_100shot", "oos_reject_at_keep95", "oos_fitted_keep",
        "oos_fitted_reject",
    }  # fmt: skip
    assert figures["clinc10_100shot"] == 1.0


@pytest.mark.parametrize(
    "line", ["{", '{"agent": "a"}', '{"agent": 1, "text": "x"}', "[[]]", '"text"', "7"]
)
def test_a_line_that_is_no_message_is_named(line, tmp_path):
    tried = tmp_path / "eval"
    tried.write_text("\n" + line)
    examples = lines(tmp_path / "examples", [message(*one) for one in EXAMPLES])

    with pytest.raises(Misconfigured, match="line 2"):
        measure(examples=examples, evaluate=tried)


def test_files_that_are_absent_or_alone_are_refused(tmp_path):
    examples = lines(tmp_path / "examples", [message(*one) for one in EXAMPLES])
    with pytest.raises(Misconfigured, match="go together"):
        measure(examples=examples)
    with pytest.raises(Misconfigured, match="cannot be read"):
        measure(data=tmp_path)
    options = BenchOptions(1.0, lambda what, share: None, examples=examples)
    with pytest.raises(Misconfigured, match="only route"):
        asyncio.run(run("append", options))
