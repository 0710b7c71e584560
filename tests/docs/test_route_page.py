"""What the page on routing shows, does as it says."""

import re
from pathlib import Path

import pytest

from angarium.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "route-messages.md").read_text()
AGENTS, EVALS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture
def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "agents.py"
    path.write_text(AGENTS + EVALS)
    return path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_lint_prints_what_the_page_shows(
    agents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("lint", str(agents)) == 0

    (shown,) = re.findall(r"```\n(agent .*?)```", PAGE, re.DOTALL)
    printed = [
        re.sub(r"[│┃\s]+", " ", line).strip() for line in capsys.readouterr().out.split("\n")
    ]
    for line in shown.strip().splitlines():
        assert re.sub(r"\s+", " ", line) in printed


def test_the_pages_dialogues_hold(agents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", str(agents)) == 0

    assert "2 of 2 cases hold" in capsys.readouterr().out


def test_a_dialogue_that_fails_says_why_and_exits_with_1(
    agents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = 'EvalCase(("where is my parcel",), agent="billing"),'
    lacking = 'EvalCase(("where is my parcel",), contains=("pizza",)),'
    agents.write_text(f"{AGENTS}{EVALS}\nEVALS += [{wrong} {lacking}]\n")

    assert run("eval", str(agents)) == 1

    printed = capsys.readouterr().out
    assert "orders answered, not billing" in printed
    assert "does not contain 'pizza'" in printed
    assert "2 of 4 cases hold" in printed


def test_errors_of_lint_exit_with_1(agents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agents.write_text(AGENTS.replace('"send me an invoice"', '"Track my parcel!"'))

    assert run("lint", str(agents)) == 1

    assert "orders and billing have the same example" in capsys.readouterr().out


def test_without_dialogues_eval_says_what_to_do(
    agents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agents.write_text(AGENTS)

    assert run("eval", str(agents)) == 2

    assert "EVALS" in capsys.readouterr().err
