"""The doctor: each thing that may be wrong is told with what to do."""

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from angarium.cli import doctor
from angarium.clock import SystemClock
from angarium.config import Settings
from angarium.server.auth import SECRET_FILE, load_or_make_secret
from angarium.storage.sqlite.store import open_sqlite


def settings(tmp_path: Path, **given: Any) -> Settings:
    return Settings(**{"data": tmp_path / "data", "port": 0, "websocket_port": 0, **given})


def found(tmp_path: Path, what: str, **given: Any) -> doctor.Finding:
    for finding in doctor.examine(settings(tmp_path, **given)):
        if finding.what == what:
            return finding
    raise AssertionError(f"nothing is said about {what}")


def test_a_fresh_machine_is_well(tmp_path: Path) -> None:
    findings = [*doctor.examine_machine(), *doctor.examine(settings(tmp_path))]

    assert [finding.line() for finding in findings if finding.level == "fail"] == []
    assert len(findings) >= 12


@pytest.mark.parametrize(
    ("what", "given", "level"),
    [
        ("agents", {"agents": "no.such.module"}, "fail"),
        ("agents", {"agents": "missing.py"}, "fail"),
        ("kms", {"kms_url": "aws-kms://region/alias"}, "fail"),
        ("kms", {"environment": "production"}, "warn"),
        ("token secret", {"token_secret": "short"}, "fail"),
        ("token secret", {"environment": "production"}, "warn"),
        ("twilio", {"twilio_account_sid": "AC1"}, "fail"),
        ("public URL", {"public_base_url": "example.com"}, "fail"),
        (
            "public URL",
            {"public_base_url": "http://example.com", "environment": "production"},
            "fail",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_settings_are_told_with_advice(
    tmp_path: Path, what: str, given: dict[str, Any], level: str
) -> None:
    finding = found(tmp_path, what, **given)

    assert finding.level == level
    assert finding.advice
    assert "short" not in finding.advice


def test_a_toml_file_of_agents_is_read_and_its_mistake_told(tmp_path: Path) -> None:
    path = tmp_path / "agents.toml"
    path.write_text("[agents.a]\ntype = 'robot'")

    finding = found(tmp_path, "agents", agents=str(path))

    assert finding.level == "fail"
    assert "[agents.a]: type is one of" in finding.sentence


def test_an_agents_file_that_does_not_compile_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "agents.py"
    path.write_text("x = 1\ndef broken(:\n")

    assert "agents.py:2" in found(tmp_path, "agents", agents=str(path)).sentence


def test_a_taken_port_is_told_unless_this_folders_node_holds_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = found(tmp_path, "port", port=port)
        (tmp_path / "data").mkdir()
        urls = {"http_url": f"http://127.0.0.1:{port}", "websocket_url": "ws://127.0.0.1:1/ws"}
        announcement = tmp_path / "data" / "node.json"
        announcement.write_text(json.dumps({"pid": os.getpid(), **urls}))
        own = found(tmp_path, "port", port=port)
        announcement.write_text(json.dumps({"pid": 2**22 + 1, **urls}))
        dead = found(tmp_path, "port", port=port)

    assert (taken.level, "ANGARIUM_PORT" in taken.advice) == ("fail", True)
    assert own.level == "ok"
    assert dead.level == "fail"


def test_what_was_given_up_is_counted(tmp_path: Path) -> None:
    async def give_up() -> None:
        sqlite = await open_sqlite(tmp_path / "data", SystemClock())
        await sqlite.store.webhooks.put("twilio", "e1", b"sealed", 1)
        (entry,) = await sqlite.store.webhooks.list_open("twilio", 10)
        await sqlite.store.webhooks.fail(entry.id, "unreadable", give_up=True)
        await sqlite.close()

    assert found(tmp_path, "store").level == "ok"
    asyncio.run(give_up())

    finding = found(tmp_path, "store")
    assert finding.level == "warn"
    assert "0 turns and 1 webhooks" in finding.sentence


def test_a_store_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "angarium.db").write_bytes(b"not a database at all" * 400)

    assert found(tmp_path, "store").level == "fail"


SHARED = {"token_secret": "s" * 32, "kms_url": "local:///shared/kms.json"}


@pytest.mark.parametrize(
    ("what", "given", "level", "sentence"),
    [
        ("bus", {}, "ok", "inside this process"),
        ("bus", {"bus_url": "redis://127.0.0.1:1"}, "fail", "without a shared store"),
        ("bus", {"store_url": "mongodb://127.0.0.1:1"}, "warn", "do not hear each other"),
        ("store", {"store_url": "mongodb://127.0.0.1:1"}, "fail", "token_secret"),
        ("store", {"store_url": "http://a", **SHARED}, "fail", "mongodb://"),
    ],
)
def test_what_nodes_share_is_looked_at(
    tmp_path: Path, what: str, given: dict[str, Any], level: str, sentence: str
) -> None:
    finding = found(tmp_path, what, **given)

    assert finding.level == level
    assert sentence in finding.line()


def test_a_store_and_a_bus_that_do_not_answer_are_told_without_their_passwords(
    tmp_path: Path,
) -> None:
    pytest.importorskip("pymongo")
    pytest.importorskip("redis")
    urls = {
        "store_url": "mongodb://ann:hunter2@127.0.0.1:1/chats?serverSelectionTimeoutMS=50",
        "bus_url": "redis://ann:hunter2@127.0.0.1:1",
    }
    store, bus = (found(tmp_path, what, **urls, **SHARED) for what in ("store", "bus"))

    assert (store.level, bus.level) == ("fail", "warn")
    assert "mongodb://127.0.0.1:1/chats" in store.line()
    assert "hunter2" not in store.line() + bus.line()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")

    assert found(tmp_path, "data folder").level == "fail"


def test_a_secret_others_can_read_is_told(tmp_path: Path) -> None:
    load_or_make_secret(tmp_path / "data")
    (tmp_path / "data" / SECRET_FILE).chmod(0o640)

    assert "chmod 600" in found(tmp_path, "token secret").advice
