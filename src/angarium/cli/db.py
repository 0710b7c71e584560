"""`angarium db`: care of the embedded store."""

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import typer

from angarium.cli.admin import DATA_HELP, load_with
from angarium.cli.main import new_app
from angarium.storage import care

app = new_app(no_args_is_help=True, help="Migrate, back up, restore and check the store.")


@app.command()
def migrate(data: Path = typer.Option(None, help=DATA_HELP)) -> None:
    """Bring the store to this version's schema. Stop the node first."""
    show(care.migrate(load_with(data).data))


@app.command()
def backup(
    target: Path = typer.Argument(help="Where to write the backup."),
    data: Path = typer.Option(None, help=DATA_HELP),
) -> None:
    """Write a consistent backup; the node may keep running."""
    show(care.backup(load_with(data).data, target))


@app.command()
def restore(
    source: Path = typer.Argument(help="A backup."),
    data: Path = typer.Option(None, help=DATA_HELP),
) -> None:
    """Restore a backup into an empty folder. Clients notice the new epoch and sync in full."""
    show(care.restore(source, load_with(data).data))


@app.command()
def check(data: Path = typer.Option(None, help=DATA_HELP)) -> None:
    """Look for damage: integrity, dense sequences, order of counters, orphans."""
    report = care.check(load_with(data).data)
    show(report)
    if problems_of(report):
        raise typer.Exit(1)


def show(outcome: Any) -> None:
    """Print what was done."""
    if is_dataclass(outcome) and not isinstance(outcome, type):
        for name, value in asdict(outcome).items():
            print(f"{name}: {value}")
    else:
        print("done" if outcome is None else outcome)


def problems_of(report: Any) -> list[str]:
    """What a check found wrong."""
    return list(report.problems)
