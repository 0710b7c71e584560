"""What `angarium dev` looks at, and what it imports anew."""

import os
import sys
from pathlib import Path

import pytest

from angarium.cli import dev
from angarium.cli.main import main
from angarium.errors import Misconfigured


def test_it_sees_every_change_of_a_file_that_agents_may_be_made_of(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    for name in ("agents.py", "prompts/a.md", "agents.toml"):
        (tmp_path / name).write_text("x")
    before = dev.stamps(tmp_path)
    assert len(before) == 3

    os.utime(tmp_path / "prompts" / "a.md", ns=(1, 1))
    touched = dev.stamps(tmp_path)
    (tmp_path / "new.py").write_text("")
    added = dev.stamps(tmp_path)
    (tmp_path / "agents.toml").unlink()

    assert before != touched
    assert touched != added
    assert dev.stamps(tmp_path) != added


def test_it_looks_neither_at_installed_code_nor_at_what_is_hidden(tmp_path: Path) -> None:
    for folder in (".venv", "venv", "__pycache__", ".angarium", "node_modules"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text("")
    (tmp_path / "photo.jpg").write_text("")

    assert dev.stamps(tmp_path) == {}


def test_it_looks_at_a_bounded_number_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "DEV_FILES_MAX", 5)
    for number in range(9):
        (tmp_path / f"a{number}.py").write_text("")

    assert len(dev.stamps(tmp_path)) == 5


def test_only_modules_of_the_project_are_imported_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_to_reload.py").write_text("WORD = 1")
    monkeypatch.syspath_prepend(tmp_path)
    import mine_to_reload  # type: ignore[import-not-found]  # noqa: F401

    taken = dev.take_modules(tmp_path)

    assert list(taken) == ["mine_to_reload"]
    assert "mine_to_reload" not in sys.modules


def test_agents_are_in_the_folder_of_their_file_or_module(tmp_path: Path) -> None:
    assert dev.folder_of(str(tmp_path / "agents.toml")) == tmp_path
    assert dev.folder_of("angarium.examples").name == "examples"
    with pytest.raises(Misconfigured, match="no such module"):
        dev.folder_of("nowhere_at_all.agents")


def test_it_refuses_production(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANGARIUM_ENVIRONMENT", "production")
    with pytest.raises(SystemExit) as ended:
        main(["dev"])

    assert ended.value.code == 2
    assert "use `angarium serve` there" in capsys.readouterr().err
