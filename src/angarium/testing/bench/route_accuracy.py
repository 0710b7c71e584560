"""How often the router finds the right agent: on CLINC150, and on data of one's own.

CLINC150 (`data_full.json`, `domains.json`): its ten domains are the agents, with 20 and 100
examples each, drawn at random from all intents of the domain, three times; every test message
counts. `oos_reject_at_keep95` is the share of its out-of-scope messages under the score that
95 % of the in-scope test messages reach. `oos_fitted_*` go by the bound that the router fits
to the examples alone, as it does in service.

Data of one's own are JSON lines. Examples: `{"agent": ..., "text": ...}`. To be tried: messages
of the same form, and dialogues as lists of them; an empty `agent` is a message for nobody. In a
dialogue the router goes by its own decisions, right or wrong.
"""

import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from angarium.agents.declared import Declared, Routing
from angarium.agents.registry import Registry
from angarium.agents.routing.classifier import Classifier
from angarium.agents.routing.index import ExampleIndex
from angarium.agents.routing.lint import Example
from angarium.agents.routing.nobody import NOBODY
from angarium.agents.routing.router import Router
from angarium.agents.routing.rules import Facts, ToAgent
from angarium.agents.routing.worker import EmbedWorker
from angarium.errors import Misconfigured
from angarium.testing.bench import BenchOptions
from angarium.testing.bench.route_agents import agents_of, silent_agent

SEEDS = (1, 2, 3)
SHOTS = (20, 100)
KEEP = 0.95
ROWS_AT_ONCE = 256
NOBODYS = "nobody"


async def measure(options: BenchOptions, worker: EmbedWorker) -> dict[str, float | None]:
    """Raises Misconfigured for files that are not as they should be."""
    figures: dict[str, float | None] = {}
    if options.data is not None:
        figures |= await _clinc(options.data, options, worker)
    if options.examples is not None and options.evaluate is not None:
        figures |= await _own(options.examples, options.evaluate, options, worker)
    elif options.examples is not None or options.evaluate is not None:
        raise Misconfigured("--examples and --eval go together")
    return figures


# --- CLINC150 -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clinc:
    """Messages by agent, and those for nobody."""

    train: Mapping[str, Sequence[str]]
    test: Sequence[Example]
    strangers: Sequence[str]


async def _clinc(
    folder: Path, options: BenchOptions, worker: EmbedWorker
) -> dict[str, float | None]:
    clinc = _read_clinc(folder)
    drawn = {seed: _draw(clinc, seed, max(SHOTS)) for seed in SEEDS}
    texts = {text for train in drawn.values() for said in train.values() for text in said}
    texts |= {example.text for example in clinc.test}
    texts |= {*clinc.strangers, *NOBODY}
    rows = await _read(sorted(texts), options, worker)
    found: dict[str, list[float]] = {}
    for seed, shots in ((seed, shots) for seed in SEEDS for shots in SHOTS):
        train = {agent: said[:shots] for agent, said in drawn[seed].items()}
        for name, value in _tried(clinc, train, rows).items():
            if shots == max(SHOTS) or name == "accuracy":
                named = f"clinc10_{shots}shot" if name == "accuracy" else name
                found.setdefault(named, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _tried(
    clinc: Clinc, train: Mapping[str, Sequence[str]], rows: Mapping[str, Any]
) -> dict[str, float]:
    examples = [Example(agent, text) for agent, said in train.items() for text in said]
    index = ExampleIndex(
        examples,
        np.stack([rows[example.text] for example in examples]),
        np.stack([rows[text] for text in NOBODY]),
        keep=KEEP,
    )
    inside = [index.look(rows[one.text], index.agents) for one in clinc.test]
    outside = [index.look(rows[text], index.agents) for text in clinc.strangers]
    scores = sorted(guess.score for guess in inside if guess)
    bound = scores[int((1 - KEEP) * len(scores))]
    right = [
        guess.agent == one.agent for guess, one in zip(inside, clinc.test, strict=True) if guess
    ]
    return {
        "accuracy": _part(right),
        "oos_reject_at_keep95": _part([guess.score < bound for guess in outside if guess]),
        "oos_fitted_keep": _part([guess.fits for guess in inside if guess]),
        "oos_fitted_reject": _part([not guess.fits for guess in outside if guess]),
    }


def _read_clinc(folder: Path) -> Clinc:
    messages, domains = _json(folder / "data_full.json"), _json(folder / "domains.json")
    try:
        owner = {intent: domain for domain, intents in domains.items() for intent in intents}
        train: dict[str, list[str]] = {}
        for text, intent in messages["train"]:
            train.setdefault(owner[intent], []).append(text)
        test = [Example(owner[intent], text) for text, intent in messages["test"]]
        return Clinc(train, test, [text for text, _ in messages["oos_test"]])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Misconfigured(f"{str(folder)!r} does not hold CLINC150 as published") from None


def _draw(clinc: Clinc, seed: int, count: int) -> dict[str, list[str]]:
    chance = random.Random(seed)  # noqa: S311 - to be the same each time
    return {agent: chance.sample(said, count) for agent, said in clinc.train.items()}


async def _read(
    texts: Sequence[str], options: BenchOptions, worker: EmbedWorker
) -> dict[str, Any]:
    rows: list[Any] = []
    for start in range(0, len(texts), ROWS_AT_ONCE):
        options.progress("reading CLINC150", start / len(texts))
        rows += list(await worker.embed(texts[start : start + ROWS_AT_ONCE]))
    return dict(zip(texts, rows, strict=True))


# --- data of one's own ----------------------------------------------------------------------


async def _own(
    examples: Path, evaluate: Path, options: BenchOptions, worker: EmbedWorker
) -> dict[str, float | None]:
    train: dict[str, list[str]] = {}
    for example in _lines(examples):
        if not isinstance(example, Example) or not example.agent:
            raise Misconfigured(f"{str(examples)!r}: examples are messages of an agent")
        train.setdefault(example.agent, []).append(example.text)
    trials = _lines(evaluate)
    singles = [trial for trial in trials if isinstance(trial, Example)]
    dialogues = [trial for trial in trials if not isinstance(trial, Example)]
    async with _opened(train, worker) as router:
        single = [await _right(router, one, "") for one in singles]
        turns: list[Moved] = []
        for done, dialogue in enumerate(dialogues):
            options.progress("dialogues", done / len(dialogues))
            turns += await _talk(router, dialogue)
    return {
        "single_accuracy": _share([agent == expected for agent, expected in single]),
        **_of_dialogues(turns),
    }


@dataclass(frozen=True, slots=True)
class Moved:
    """One turn of a dialogue: who had it and who was to, before and after."""

    first: bool
    was: str
    became: str
    was_right: str
    right: str


def _of_dialogues(turns: Sequence[Moved]) -> dict[str, float | None]:
    later = [turn for turn in turns if not turn.first]
    stays = [turn for turn in later if turn.right == turn.was_right]
    switches = [turn for turn in later if turn.right != turn.was_right]
    return {
        "dialogue_accuracy": _share([turn.became == turn.right for turn in turns]),
        "dialogue_first_accuracy": _share([t.became == t.right for t in turns if t.first]),
        "dialogue_turns_that_switch": _share([turn.right != turn.was_right for turn in later]),
        "dialogue_kept": _share([turn.became == turn.was for turn in stays]),
        "dialogue_switched": _share([turn.became == turn.right for turn in switches]),
        "dialogue_wrong_switches": _share(
            [turn.became not in (turn.was, turn.right) for turn in later]
        ),
    }


async def _talk(router: Router, dialogue: Sequence[Example]) -> list[Moved]:
    turns, sticky, before = [], "", ""
    for place, message in enumerate(dialogue):
        agent, expected = await _right(router, message, sticky)
        turns.append(Moved(place == 0, sticky, agent, before, expected))
        sticky, before = agent, expected
    return turns


async def _right(router: Router, message: Example, sticky: str) -> tuple[str, str]:
    """Who got it, and who was to."""
    decision = await router.decide(message.text, Facts(sticky=sticky))
    agent = decision.agent if isinstance(decision, ToAgent) else ""
    return agent, message.agent or NOBODYS


@asynccontextmanager
async def _opened(
    train: Mapping[str, Sequence[str]], worker: EmbedWorker
) -> AsyncIterator[Router]:
    agents = [silent_agent(NOBODYS), *agents_of(train)]
    registry = Registry(Declared(agents, Routing(fallback=NOBODYS)))
    router = Router(registry, examples=Classifier(worker))
    try:
        await router.open(wait_s=None)
        yield router
    finally:
        await router.close()


def _lines(path: Path) -> list[Example | list[Example]]:
    found: list[Example | list[Example]] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            found.append(
                [_message(one) for one in value] if isinstance(value, list) else _message(value)
            )
        except (ValueError, KeyError, TypeError):
            raise Misconfigured(
                f'{str(path)!r}, line {number}: write {{"agent": ..., "text": ...}} or a list'
            ) from None
    return found


def _message(value: Any) -> Example:
    agent, text = value["agent"], value["text"]
    if not isinstance(agent, str) or not isinstance(text, str):
        raise TypeError
    return Example(agent, text)


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError:
        raise Misconfigured(f"{str(path)!r} is not JSON") from None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{str(path)!r} cannot be read: {type(error).__name__}") from None


def _share(hits: Sequence[bool]) -> float | None:
    """None where there was nothing to count."""
    return _part(hits) if hits else None


def _part(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)
