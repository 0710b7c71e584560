"""A node that cannot start says which setting, file or port is wrong, and ends with 2."""

import shutil
import socket
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from angarium.testing.process import ServedNode

from .nodes import ECHO, Run, get, serve_until_it_ends

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture(scope="module")
def stopped(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a node that was served and stopped."""
    folder = tmp_path_factory.mktemp("stopped") / "node"
    (folder.parent / "agents.py").write_text(ECHO)
    node = ServedNode(folder, settings={"agents": str(folder.parent / "agents.py")})
    run(node.start())
    assert run(node.stop()) == 0
    return folder


@pytest.fixture
def copied(stopped: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it, to be spoilt."""
    folder = tmp_path / "node"
    shutil.copytree(stopped, folder)
    yield folder
    folder.chmod(0o700)


def refusal(run: Run, folder: Path, settings: Mapping[str, str]) -> str:
    """The one line that a node which cannot start writes; its exit code is 2."""
    code, written = run(serve_until_it_ends(folder, settings))
    assert code == 2, written
    assert "Traceback" not in written
    (line,) = written.splitlines()
    return line


def test_wrong_settings_are_all_named_at_once_and_secrets_not_repeated(
    run: Run, tmp_path: Path
) -> None:
    wrong = {
        "port": "99999",
        "websocket_port": "http",
        "log_level": "loud",
        "rate_per_minute": "0",
        "drain_grace_s": "-1",
        "environment": "test",
        "domain": "Not A Domain",
    }
    line = refusal(run, tmp_path / "node", {**wrong, "twilio_auth_token": "hunter2"})
    assert line.startswith("error[misconfigured]: wrong settings: ")
    assert not [name for name in wrong if f"{name}: " not in line]
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("setting", "value"),
    [("token_secret", "short"), ("kms_url", "nowhere://key"), ("default_agent", "nobody")],
)
def test_a_setting_found_wrong_at_work_is_named(
    run: Run, tmp_path: Path, setting: str, value: str
) -> None:
    line = refusal(run, tmp_path / "node", {setting: value})
    assert line.startswith("error[misconfigured]: ")
    assert setting in line
    assert "short" not in line


def test_production_is_not_served_with_a_made_up_account(run: Run, tmp_path: Path) -> None:
    line = refusal(run, tmp_path / "node", {"environment": "production"})
    assert line.startswith("error[misconfigured]: set twilio_account_sid")


def test_an_unknown_setting_in_the_file_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "angarium.toml").write_text("prot = 8400\n")
    line = refusal(run, tmp_path / "node", {})
    assert line.startswith("error[misconfigured]: wrong settings: prot: ")


def test_an_unknown_variable_is_told_with_the_setting_that_may_be_meant(
    run: Run, tmp_path: Path
) -> None:
    node = ServedNode(tmp_path / "node", settings={"log_levle": "hunter2"})
    run(node.start())
    assert run(node.stop()) == 0
    (told,) = [line for line in node.log_text().splitlines() if "settings.unknown" in line]
    assert '"variable": "ANGARIUM_LOG_LEVLE"' in told
    assert '"meant": "ANGARIUM_LOG_LEVEL"' in told
    assert "hunter2" not in told


@pytest.mark.parametrize("setting", ["port", "websocket_port"])
def test_a_port_in_use_is_named_with_its_setting(
    run: Run, tmp_path: Path, setting: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = refusal(run, tmp_path / "node", {setting: port})
    assert line.startswith(f"error[port_in_use]: port {port} on 127.0.0.1 is taken; ")
    assert f"`{setting}`" in line


def test_an_address_that_is_not_ours_is_named(run: Run, tmp_path: Path) -> None:
    line = refusal(run, tmp_path / "node", {"host": "192.0.2.1"})
    assert line.startswith("error[misconfigured]: cannot listen on 192.0.2.1")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (None, "agents.py' does not exist"),
        ("def (:\n", "agents.py, line 1: invalid syntax"),
        ("raise RuntimeError('broken')\n", "do not load: RuntimeError('broken')"),
    ],
)
def test_agents_that_do_not_load_are_named(
    run: Run, tmp_path: Path, code: str | None, told: str
) -> None:
    if code is not None:
        (tmp_path / "agents.py").write_text(code)
    line = refusal(run, tmp_path / "node", {"agents": str(tmp_path / "agents.py")})
    assert line.startswith("error[misconfigured]: agents ")
    assert told in line


# --- the data folder --------------------------------------------------------------------------


def test_a_read_only_folder_is_refused_with_what_to_do(run: Run, copied: Path) -> None:
    (copied.parent / "empty").mkdir(mode=0o500)
    copied.chmod(0o500)
    for folder, told in [
        (copied, "make its folder writable"),
        (copied.parent / "empty" / "below", "make it writable or set another `data`"),
    ]:
        line = refusal(run, folder, {})
        assert line.startswith("error[store_unwritable]: ")
        assert told in line


def test_a_read_only_database_is_refused_and_kept_as_it_is(run: Run, copied: Path) -> None:
    database = copied / "angarium.db"
    before = database.read_bytes()
    database.chmod(stat.S_IRUSR)
    line = refusal(run, copied, {})
    assert line.startswith("error[store_unwritable]: cannot write ")
    assert "angarium.db: Permission denied" in line
    assert database.read_bytes() == before


def test_a_store_of_a_later_version_is_refused_and_kept_as_it_is(
    run: Run, copied: Path
) -> None:
    with sqlite3.connect(copied / "angarium.db") as connection:
        connection.execute("INSERT INTO schema_versions VALUES (99, 0)")
    connection.close()
    before = (copied / "angarium.db").read_bytes()
    line = refusal(run, copied, {})
    assert line.startswith("error[schema_mismatch]: the store has schema 99, ")
    assert "install the newer Angarium" in line
    assert (copied / "angarium.db").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "spoilt", "told"),
    [
        ("angarium.db", b"this was never a database" * 500, "error[store_unwritable]: "),
        ("kms.json", b"{", "error[kms_unavailable]: the key file "),
        ("twilio-dev.json", b"{", "error[misconfigured]: "),
        ("token-secret", b"short", "error[misconfigured]: token_secret: "),
    ],
)
def test_a_spoilt_file_of_the_folder_is_named(
    run: Run, copied: Path, name: str, spoilt: bytes, told: str
) -> None:
    (copied / name).write_bytes(spoilt)
    assert refusal(run, copied, {}).startswith(told)
    assert (copied / name).read_bytes() == spoilt


def test_a_lost_key_is_not_silently_made_anew(run: Run, copied: Path) -> None:
    (copied / "kms.json").unlink()
    line = refusal(run, copied, {})
    assert line.startswith("error[kms_unavailable]: ")


def test_a_readable_secret_is_refused_until_it_is_put_right(run: Run, copied: Path) -> None:
    (copied / "token-secret").chmod(0o644)
    line = refusal(run, copied, {})
    assert line.startswith("error[misconfigured]: others can read ")
    assert "chmod 600" in line
    (copied / "token-secret").chmod(0o600)
    node = ServedNode(copied)
    run(node.start())
    try:
        assert run(get(node, "/readyz")).status_code == 200
    finally:
        assert run(node.stop()) == 0
