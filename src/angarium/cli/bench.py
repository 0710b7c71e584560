"""`angarium bench NAME`: one JSON object with `--json`, else a bar and a table."""

import json
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from angarium.testing.bench import BENCHES, BenchOptions, run


def bench(name: str, *, as_json: bool, seconds: float) -> None:
    """Run the benchmark and print its figures. Raises NotFound for an unknown name."""
    if as_json:
        result = uvloop.run(run(name, BenchOptions(seconds, lambda what, share: None)))
        print(json.dumps(result))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(BENCHES.get(name, name), total=1.0)

        def show(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        result = uvloop.run(run(name, BenchOptions(seconds, show)))
        bar.update(task, completed=1.0)
    Console().print(table_of(result))


def table_of(result: dict[str, Any]) -> Table:
    table = Table(title=f"{result['name']}  ({result['version']})", caption=result["machine"])
    table.add_column("figure")
    table.add_column("value", justify="right")
    for figure, value in result["figures"].items():
        table.add_row(figure, f"{value:,.2f}" if value < 100 else f"{value:,.0f}")
    return table
