"""`angarium lint` and `angarium eval`: look at agents before people do."""

import asyncio
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from angarium.agents.registry import Registry, load_registry
from angarium.agents.routing.lint import Report, Tried
from angarium.agents.routing.lint import lint as look_at
from angarium.cli.admin import finish
from angarium.config import load_settings
from angarium.errors import Misconfigured
from angarium.testing.evals import Outcome, try_cases

AGENTS_HELP = "A module, a Python file or a TOML file; default: the setting `agents`."
_TEXT_CHARS_MAX = 60  # Of a text in a table; the rest is cut.


def lint(agents: str = typer.Argument(None, help=AGENTS_HELP)) -> None:
    """Say which agents are hard to tell apart, or have too few examples; exit 1 on errors."""
    registry = _load(agents)
    tried = asyncio.run(_try_examples(registry))
    report = look_at(tuple(registry), registry.default, registry.declared.routing, tried)
    _print_report(report)
    finish(1 if report.has_errors else 0)


def evaluate(agents: str = typer.Argument(None, help=AGENTS_HELP)) -> None:
    """Try the declared dialogues with the real router and agents; exit 1 when one fails."""
    registry = _load(agents)
    cases = registry.declared.evals
    if not cases:
        raise Misconfigured("these agents declare no EVALS and no [[eval]]; write some first")

    async def run() -> list[Outcome]:
        return [outcome async for outcome in try_cases(registry, cases)]

    outcomes = asyncio.run(run())
    _print_outcomes(outcomes)
    finish(1 if any(outcome.problem for outcome in outcomes) else 0)


def _load(agents: str | None) -> Registry:
    settings = load_settings()
    return load_registry(agents or settings.agents, "" if agents else settings.default_agent)


async def _try_examples(registry: Registry) -> list[Tried] | None:
    """None without a model."""
    from angarium.agents.routing.make import make_worker

    worker = make_worker(registry.declared.routing)
    if worker is None:
        return None
    from angarium.agents.routing.classifier import Classifier

    classifier = Classifier(worker)
    try:
        classifier.update(registry.roster)
        await classifier.ready()
        return await classifier.try_all()
    finally:
        await classifier.close()
        await worker.close()


def _print_report(report: Report) -> None:
    table = Table()
    table.add_column("agent")
    table.add_column("examples", justify="right")
    table.add_column("find it", justify="right")
    for row in report.rows:
        table.add_row(row.agent, str(row.examples), _percent(row.found))
    console = Console(soft_wrap=True)
    console.print(table)
    for finding in report.findings:
        console.print(f"{finding.level}: {escape(finding.sentence)}")
    if report.found is not None:
        console.print(
            f"{_percent(report.found)} of all examples find their agent by the others"
        )
    else:
        console.print("not tried: no routing model, or nothing to choose by")


def _print_outcomes(outcomes: Sequence[Outcome]) -> None:
    table = Table()
    for column in ("", "said", "answered by", "because", "problem"):
        table.add_column(column)
    for outcome in outcomes:
        said = escape(_cut(" / ".join(outcome.case.say)))
        mark = "FAIL" if outcome.problem else "ok"
        reason, problem = escape(outcome.reason), escape(outcome.problem)
        table.add_row(mark, said, outcome.agent or "-", reason, problem)
    console = Console(soft_wrap=True)
    console.print(table)
    failed = sum(bool(outcome.problem) for outcome in outcomes)
    console.print(f"{len(outcomes) - failed} of {len(outcomes)} cases hold")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_CHARS_MAX else text[: _TEXT_CHARS_MAX - 1] + "…"
