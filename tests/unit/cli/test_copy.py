"""`angarium db copy` on folders, and how stores are named on the command line."""

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from angarium.cli.copying import Told
from angarium.cli.main import main
from angarium.cli.stores import Place, place_of
from angarium.clock import SystemClock
from angarium.errors import Misconfigured
from angarium.ids import ConversationId, UserId
from angarium.model.conversation import Participant
from angarium.server.ownership import Ownership
from angarium.storage.sqlite.connection import FILE_NAME
from angarium.storage.sqlite.store import open_sqlite


def call(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("ANGARIUM_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    async def scenario() -> None:
        store = await open_sqlite(tmp_path / "old", SystemClock())
        people = [Participant(UserId("@ada:x"), "person")]
        for name in ("one", "two"):
            await store.store.conversations.create(ConversationId(name), people, 0)
        await store.close()

    asyncio.run(scenario())
    return tmp_path / "old"


def rows(table: str, kind: str) -> Sequence[str]:
    return next(line.split() for line in table.splitlines() if line.startswith(kind))


def test_one_command_copies_and_prints_what_it_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("db", "copy", "sqlite://old", "sqlite://new") == 0

    table = capsys.readouterr().out
    assert rows(table, "conversations")[1:3] == ["2", "2"]
    assert "DIFFERENT" not in table
    assert "serve sqlite://new from now on" in table
    assert call("db", "check", "--store", "sqlite://new") == 0
    assert call("db", "copy", "--check", "sqlite://old", "sqlite://new") == 0


def test_without_a_target_the_store_of_the_settings_is_meant(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGARIUM_DATA", "elsewhere")

    assert call("db", "copy", "sqlite://old") == 0
    assert Path("elsewhere", FILE_NAME).exists()


def test_a_difference_is_shown_and_exits_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("db", "copy", "sqlite://old", "sqlite://new") == 0
    with closing(sqlite3.connect(Path("new", FILE_NAME))) as connection:
        connection.execute("UPDATE participants SET role = 'agent'")
        connection.commit()
    capsys.readouterr()

    assert call("db", "copy", "--check", "sqlite://old", "sqlite://new") == 1
    assert rows(capsys.readouterr().out, "conversations")[-1] == "DIFFERENT"


def test_a_folder_that_a_node_serves_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = Ownership(folder, {"messaging"})
    try:
        assert call("db", "copy", "sqlite://old", "sqlite://new") == 2
        assert call("db", "copy", "sqlite://new", "sqlite://old") == 2
    finally:
        owner.close()
    assert capsys.readouterr().err.count("error[store_in_use]: a node serves old: stop") == 2
    assert call("db", "copy", "sqlite://old", "sqlite://new") == 0


@pytest.mark.parametrize(
    "target", ["sqlite://old", "sqlite://./old/", "sqlite://", "postgres://h/d", "old"]
)
def test_targets_that_cannot_be_meant_are_refused(
    folder: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("db", "copy", "sqlite://old", target) == 2
    assert capsys.readouterr().err.startswith("error[misconfigured]: ")


def test_a_source_that_is_not_there_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("db", "copy", "sqlite://none", "sqlite://new") == 2
    assert capsys.readouterr().err.startswith("error[not_found]: there is no store in none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///srv/data", "sqlite:///srv/data"),
        ("mongodb://h", "mongodb://h/angarium"),
        ("mongodb://h:1,i:2/d?replicaSet=r", "mongodb://h:1,i:2/d"),
        ("mongodb://ada:SECRET@h/d", "mongodb://h/d"),
        ("mongodb+srv://ada:SECRET@h.example/d?x=SECRET", "mongodb+srv://h.example/d"),
        ("mongodb://[::1]:27017/d", "mongodb://[::1]:27017/d"),
        ("mongodb://ada:SEC/RET@h/d", "mongodb://..."),
        ("mongodb://ada:SEC?RET@h/d", "mongodb://..."),
        ("mongodb://ada:SEC@RET@h/d", "mongodb://..."),
        ("mongodb://ada:SEC#RET@h/d", "mongodb://..."),
        ("mongodb://ada:S@h/d?authMechanismProperties=TOKEN:a@SECRET", "mongodb://..."),
    ],
)
def test_a_shown_address_holds_no_secret(url: str, shown: str) -> None:
    place = place_of(url)
    assert place.shown == shown
    assert "SEC" not in repr(place)


def test_an_address_that_cannot_be_used_is_not_repeated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in ("mongodb://ada:SEC@RET@h/d", "mongodb://ada:SECRET@h:x/d", "mongo://SECRET"):
        assert call("db", "copy", "sqlite://old", url) == 2
        assert call("db", "check", "--store", url) == 2
    captured = capsys.readouterr()
    assert "SEC" not in captured.err + captured.out


def test_only_urls_of_stores_name_a_place() -> None:
    assert place_of("sqlite://.angarium") == Place(folder=Path(".angarium"))
    for url in ("", "mongodb://", "mongo://h/d", "sqlite:/old"):
        with pytest.raises(Misconfigured, match="sqlite://FOLDER or mongodb://"):
            place_of(url)


class Stream:
    """What progress is written to."""

    def __init__(self, terminal: bool) -> None:
        self.terminal, self.text = terminal, ""

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_progress_is_a_few_lines_or_one_that_changes() -> None:
    quiet, live = Stream(terminal=False), Stream(terminal=True)
    for stream in (quiet, live):
        told = Told(stream)  # type: ignore[arg-type]
        for n in range(50):
            told("copying", "messages", n)
        told.clear()
    assert quiet.text == "copying messages: 0 rows\n"
    assert live.text.startswith("\r\x1b[2Kcopying messages: 0 rows")
    assert live.text.endswith("\r\x1b[2K")
    assert "\n" not in live.text
