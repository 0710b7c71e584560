"""`angarium bench NAME`: one JSON object with `--json`, else a bar and a table."""

import json
from pathlib import Path
from typing import Any

import uvloop
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from angarium.testing.bench import BENCHES, BenchOptions, Progress, run


def bench(
    name: str,
    *,
    as_json: bool,
    seconds: float,
    data: Path | None = None,
    examples: Path | None = None,
    evaluate: Path | None = None,
) -> None:
    """Run the benchmark and print its figures. Raises NotFound for an unknown name, and
    Misconfigured for files that are not as they should be."""

    def options(progress: Progress) -> BenchOptions:
        return BenchOptions(seconds, progress, data, examples, evaluate)

    if as_json:
        result = uvloop.run(run(name, options(lambda what, share: None)))
        print(json.dumps(result))
        return
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(BENCHES.get(name, name), total=1.0)

        def show(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        result = uvloop.run(run(name, options(show)))
        bar.update(task, completed=1.0)
    Console().print(table_of(result))


def table_of(result: dict[str, Any]) -> Table:
    table = Table(title=f"{result['name']}  ({result['version']})", caption=result["machine"])
    table.add_column("figure")
    table.add_column("value", justify="right")
    for figure, value in result["figures"].items():
        table.add_row(figure, _told(value))
    for note in result.get("notes", ()):
        table.add_row(note, "")
    return table


def _told(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
