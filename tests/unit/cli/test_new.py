"""The project that `angarium new` makes."""

import subprocess
import sys
from pathlib import Path

import pytest

from angarium.agents.registry import load_registry
from angarium.cli.new import PROJECT, make_project
from angarium.config import load_settings
from angarium.errors import Misconfigured


def test_its_agents_and_settings_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    make_project(tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    settings = load_settings()

    registry = load_registry(settings.agents, settings.default_agent)

    assert registry.names == ("greeter", "booking")
    assert registry.declared.routing.fallback == "greeter"
    assert registry.declared.evals


def test_nothing_is_overwritten_and_nothing_half_made(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")

    with pytest.raises(Misconfigured, match=r"README\.md exists already"):
        make_project(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Misconfigured, match="cannot be written"):
        make_project(tmp_path / "file" / "shop")


@pytest.mark.slow
@pytest.mark.process
def test_its_own_tests_pass(tmp_path: Path) -> None:
    made = make_project(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in made} == set(PROJECT)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
