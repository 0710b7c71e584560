"""The command line: fast help, one-line errors, tokens and settings."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from angarium.cli.admin import login_name, node_url
from angarium.cli.main import COMMANDS, main
from angarium.clock import SystemClock
from angarium.config import Settings
from angarium.server.auth import Tokens, load_or_make_secret


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("ANGARIUM_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0

    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)


@pytest.mark.process
@pytest.mark.slow
def test_help_imports_nothing_heavy_and_is_fast() -> None:
    script = (
        "import sys; from angarium.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'fastapi', 'pydantic', 'vodozemac', 'rich', 'picows', 'structlog'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    taken_s = []
    for _ in range(3):
        before = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        taken_s.append(time.perf_counter() - before)

    assert done.stdout.splitlines()[-1] == "[]"
    # Another test's load may share the processor; what is imported is held above.
    assert min(taken_s) < 0.6


def test_an_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("serve", "everything") == 2

    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error[misconfigured]: no service everything; there are: all")
    assert shown.err.count("\n") == 1


def test_a_wrong_setting_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGARIUM_PORT", "many")

    assert call("token", "ada") == 2
    assert "port" in capsys.readouterr().err


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("srve") == 2
    assert "No such command" in capsys.readouterr().err


def test_a_token_is_minted_for_the_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call("token", "ada", "--admin", "--data", str(tmp_path / "data")) == 0

    tokens = Tokens(load_or_make_secret(tmp_path / "data"), SystemClock())
    principal = tokens.verify(capsys.readouterr().out.strip())
    assert principal.user == "@ada:angarium"
    assert principal.scopes == {"user", "admin"}


def test_a_token_for_agents_alone_does_not_act_as_the_user(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call("token", "ada", "--agents-only", "--data", str(tmp_path / "data")) == 0

    tokens = Tokens(load_or_make_secret(tmp_path / "data"), SystemClock())
    principal = tokens.verify(capsys.readouterr().out.strip())
    assert principal.scopes == {"agents"}


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("token", "Ada Lovelace", "--data", "d") == 2
    assert "error[malformed]" in capsys.readouterr().err


def test_the_settings_table_has_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("settings") == 0

    shown = capsys.readouterr().out
    assert all(
        f"| `{name}` | `ANGARIUM_{name.upper()}` |" in shown for name in Settings.model_fields
    )


def test_a_store_is_made_checked_backed_up_and_restored(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import asyncio

    from angarium.storage.sqlite.store import open_sqlite

    async def make() -> None:
        await (await open_sqlite(tmp_path / "data", SystemClock())).close()

    asyncio.run(make())
    data, copy, new = (str(tmp_path / name) for name in ("data", "copy", "new"))

    assert call("db", "check", "--data", data) == 0
    assert call("db", "migrate", "--data", data) == 0
    assert call("db", "backup", copy, "--data", data) == 0
    assert call("db", "restore", copy, "--data", new) == 0
    assert call("db", "check", "--data", new) == 0
    assert "messages: 0" in capsys.readouterr().out
    assert call("db", "check", "--data", str(tmp_path / "nothing")) == 2
    assert capsys.readouterr().err.startswith("error[")


def test_commands_find_the_node_of_their_folder(tmp_path: Path) -> None:
    found = Settings(data=tmp_path)
    assert node_url(found) == "http://127.0.0.1:8400"
    (tmp_path / "node.json").write_text('{"http_url": "http://127.0.0.1:9"}')
    assert node_url(found) == "http://127.0.0.1:9"
    (tmp_path / "node.json").write_text("half writ")
    assert node_url(found) == "http://127.0.0.1:8400"


def test_a_login_name_becomes_a_user_id(monkeypatch: pytest.MonkeyPatch) -> None:
    for login, name in (("Ada", "ada"), ("_svc$", "svc"), ("$$", "me")):
        monkeypatch.setattr("getpass.getuser", lambda login=login: login)
        assert login_name() == name


def test_chat_without_a_node_is_a_named_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ("--say", "hi", "--url", "http://127.0.0.1:9", "--data", str(tmp_path / "data"))

    assert call("chat", *arguments) == 2
    assert "unavailable" in capsys.readouterr().err


@pytest.mark.parametrize("user", ["gateway", "wa_0123", "@wa_0123:angarium"])
def test_nobody_chats_under_a_name_of_the_product_itself(
    user: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["chat", "--user", user, "--say", "x", "--data", str(tmp_path)])
    assert ended.value.code == 2
    assert "account of the product itself" in capsys.readouterr().err
