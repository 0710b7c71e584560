"""`angarium new FOLDER`: a small project to start from, with its tests."""

from importlib.resources import files
from pathlib import Path

import typer

from angarium.errors import Misconfigured

# As they are shipped: a name with `.txt` behind it is no module of ours.
PROJECT = ("agents.py", "agents.toml", "angarium.toml", "tests/test_agents.py", "README.md")


def new(folder: Path = typer.Argument(help="Where; it is made if need be.")) -> None:
    """Make a small project: two agents, their settings and tests. Overwrites nothing."""
    made = make_project(folder)
    for path in made:
        print(f"made {path}")
    print(f"\nGo on with: cd {folder} && angarium dev")


def make_project(folder: Path) -> list[Path]:
    """Write the project's files. Raises Misconfigured when one of them is there already, or
    cannot be written; then none was changed."""
    targets = {folder / name: name for name in PROJECT}
    taken = [str(path) for path in targets if path.exists()]
    if taken:
        raise Misconfigured(f"{', '.join(taken)} exists already; choose another folder")
    shipped = files("angarium.cli") / "project"
    try:
        for path, name in targets.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write((shipped / f"{name}.txt").read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(f"{folder} cannot be written: {error.strerror}") from None
    return list(targets)
