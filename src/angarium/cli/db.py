"""`angarium db`: care of the embedded store."""

from dataclasses import asdict
from pathlib import Path

import typer

from angarium.cli.admin import DATA_HELP, load_with
from angarium.cli.main import new_app
from angarium.storage import care

app = new_app(no_args_is_help=True, help="Migrate, back up, restore and check the store.")


@app.command()
def migrate(data: Path = typer.Option(None, help=DATA_HELP)) -> None:
    """Bring the store to this version's schema. Stop the node first."""
    before, after = care.migrate(load_with(data).data)
    print(f"schema {after}" + (f", migrated from {before}" if before != after else ": current"))


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
    if report.problems:
        raise typer.Exit(1)


def show(report: care.Report) -> None:
    """Print what was found, problems last."""
    for name, value in asdict(report).items():
        if isinstance(value, int):
            print(f"{name}: {value}")
    for orphan in report.orphans:
        print(f"orphan: {orphan}")
    for problem in report.problems:
        print(f"problem: {problem}")
