"""`angarium db`: care of the store."""

from dataclasses import asdict
from pathlib import Path

import typer

from angarium.cli.admin import DATA_HELP, load_with
from angarium.cli.main import new_app
from angarium.cli.stores import Place, place_of, place_of_settings
from angarium.cli.stores import check as check_place
from angarium.cli.stores import migrate as migrate_place
from angarium.storage import care
from angarium.storage.report import Report

app = new_app(no_args_is_help=True, help="Migrate, back up, restore, check, copy the store.")
STORE_HELP = "sqlite://FOLDER or mongodb://HOST/DATABASE; default: the one of the settings."


@app.command()
def migrate(
    data: Path = typer.Option(None, help=DATA_HELP),
    store: str = typer.Option(None, help=STORE_HELP),
) -> None:
    """Bring the store to this version's schema. Stop every node first."""
    before, after = migrate_place(chosen(data, store))
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
def check(
    data: Path = typer.Option(None, help=DATA_HELP),
    store: str = typer.Option(None, help=STORE_HELP),
) -> None:
    """Look for damage: integrity, dense sequences, order of counters, orphans."""
    report = check_place(chosen(data, store))
    show(report)
    if report.problems:
        raise typer.Exit(1)


@app.command()
def copy(
    source: str = typer.Argument(metavar="FROM", help="sqlite://FOLDER or mongodb://HOST/DB."),
    target: str = typer.Argument(None, metavar="TO", help=STORE_HELP),
    check: bool = typer.Option(False, "--check", help="Compare only; write nothing."),
    restart: bool = typer.Option(False, "--restart", help="Drop an unfinished copy first."),
) -> None:
    """Copy a store into an empty one, then compare both. Stop every node first.

    Interrupted, it goes on where it was when it is run again.
    """
    from angarium.cli.copying import compare_stores, copy_store

    ends = place_of(source), place_of(target) if target else chosen(None, None)
    if not check:
        copy_store(*ends, restart=restart)
    elif not compare_stores(*ends):
        raise typer.Exit(1)


def chosen(data: Path | None, store: str | None) -> Place:
    """The store that is meant: a folder named here, else a URL named here, else the settings'.

    Raises Misconfigured.
    """
    if data is None and store is not None:
        return place_of(store)
    settings = load_with(data)
    return place_of_settings(settings) if data is None else Place(folder=settings.data)


def show(report: Report) -> None:
    """Print what was found, problems last."""
    for name, value in asdict(report).items():
        if isinstance(value, int):
            print(f"{name}: {value}")
    for orphan in report.orphans:
        print(f"orphan: {orphan}")
    for problem in report.problems:
        print(f"problem: {problem}")
