"""The page on declaring agents: its Python and its TOML mean the same, and load."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from angarium.agents.declared import Declared, Kubernetes
from angarium.agents.loading import load_declared

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PAGE = (HOWTO / "declare-agents.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TOML = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def unchanged_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def load(folder: Path, name: str, text: str) -> Declared:
    (folder / name).write_text(text)
    return load_declared(str(folder / name))


def test_python_and_toml_of_the_page_declare_the_same(tmp_path: Path) -> None:
    python = load(tmp_path, "orders.py", PYTHON[0])

    toml = load(tmp_path, "agents.toml", TOML[0])

    (one,), (other,) = python.agents, toml.agents
    assert (one.name, one.description, one.terms) == (
        other.name,
        other.description,
        other.terms,
    )
    assert (python.routing, python.evals) == (toml.routing, toml.evals)


def test_the_other_types_of_the_page_load(tmp_path: Path) -> None:
    declared = load(tmp_path, "agents.toml", TOML[1])

    assert [agent.name for agent in declared.agents] == list(tomllib.loads(TOML[1])["agents"])


def test_the_discovery_of_its_page_loads(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"```toml\n(.*?)```", (HOWTO / "discover-agents.md").read_text(), re.S
    )

    assert load(tmp_path, "agents.toml", block).discovery == (Kubernetes(namespace="agents"),)
