"""`deploy/compose.yaml` and what it names are of one piece, and agree with the product."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from angarium.adapters.store import check_shared
from angarium.config import PREFIX, Settings
from angarium.testing.mongo import MongoServer, find_server

from .balancers import DEPLOY

ROOT = DEPLOY.parent
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if "build" in service}
CLUSTER = {name for name, service in SERVICES.items() if service["profiles"] == ["cluster"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of deploy/ with its secrets made."""
    folder = tmp_path_factory.mktemp("made") / "deploy"
    shutil.copytree(DEPLOY, folder, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run(["sh", str(folder / "make-secrets.sh")], check=True)
    return folder


def test_without_a_profile_one_container_starts_and_with_it_the_cluster_alone() -> None:
    chosen = re.findall(r"^COMPOSE_PROFILES=(\w+)$", (DEPLOY / ".env").read_text(), re.M)
    single = {name for name, service in SERVICES.items() if service["profiles"] == chosen}

    assert single == {"angarium"}
    assert single | CLUSTER == set(SERVICES)
    assert {"node-1", "node-2", "gateway", "bridge", "nginx", "redis", "mongo-1"} <= CLUSTER


def test_every_setting_given_is_one_that_the_product_has() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    given = {name for each in OURS for name in SERVICES[each].get("environment", {})}
    secrets = {name.upper() for name in COMPOSE["secrets"] if name.startswith("angarium_")}

    assert given
    assert (given | secrets) <= known


def test_a_stop_waits_longer_than_a_drain_may_take() -> None:
    for name in OURS - {"mongo-init"}:
        given = SERVICES[name].get("environment", {})
        waits_s = sum(
            float(given.get(f"{PREFIX}{field.upper()}", Settings.model_fields[field].default))
            for field in ("drain_wait_s", "drain_grace_s")
        )
        # Turns and requests that run get some seconds of their own.
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= waits_s + 20, name


def test_our_containers_cannot_write_outside_their_volumes_nor_gain_rights() -> None:
    for name in OURS | {"nginx", "redis"}:
        service = SERVICES[name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_nodes_on_one_store_are_told_what_they_must_agree_on() -> None:
    for name in ("node-1", "node-2", "gateway", "bridge"):
        service = SERVICES[name]
        settings = Settings(
            **{
                setting.removeprefix(PREFIX).lower(): value
                for setting, value in service["environment"].items()
                if "${" not in value
            },
            **{name.removeprefix(PREFIX.lower()): "x" * 32 for name in service["secrets"]},
        )
        check_shared(settings)
        assert settings.kms_url == "local:///keys/kms.json"


def test_the_relay_holds_no_key_and_stores_are_not_reached_from_outside() -> None:
    for name in ("node-1", "node-2"):
        assert not SERVICES[name].get("volumes")
    for name in ("mongo-1", "mongo-2", "mongo-3", "redis", "node-1", "node-2"):
        assert "ports" not in SERVICES[name]
        assert list(SERVICES[name]["networks"]) == ["inner"]
    assert COMPOSE["networks"]["inner"] == {"internal": True}
    assert {name for name in CLUSTER if "ports" in SERVICES[name]} == {"nginx"}


def test_no_secret_stands_in_the_file_and_each_is_made(made: Path) -> None:
    for name, secret in COMPOSE["secrets"].items():
        path = made / secret["file"]
        assert path.is_file(), name
        assert path.stat().st_size > 30, name
        # Read by a container's user; the folder keeps others of this machine out.
        assert stat.S_IMODE(path.stat().st_mode) == 0o444, name
    assert stat.S_IMODE((made / "secrets").stat().st_mode) == 0o700
    assert len((made / "secrets" / "token_secret").read_text()) >= 32


def test_secrets_that_are_there_stay_as_they_are(made: Path) -> None:
    before = {path.name: path.read_bytes() for path in (made / "secrets").iterdir()}
    subprocess.run(["sh", str(made / "make-secrets.sh")], check=True)

    assert before == {path.name: path.read_bytes() for path in (made / "secrets").iterdir()}


def test_the_balancer_asks_only_for_services_that_are_there() -> None:
    named = re.findall(
        r"^    server ([\w-]+):(\d+)", (DEPLOY / "nginx" / "nodes.conf").read_text(), re.M
    )
    defaults = re.findall(
        r"presetenv ANGARIUM_\w+ ([\w-]+):(\d+)$",
        (DEPLOY / "haproxy" / "haproxy.cfg").read_text(),
        re.M,
    )

    assert set(named) == set(defaults)
    assert {name for name, _ in named} <= set(SERVICES)
    assert {int(port) for _, port in named} == {
        Settings.model_fields[name].default for name in ("port", "websocket_port")
    }


def compose_tool() -> list[str] | None:
    """The command, as it is installed, or as COMPOSE names it."""
    for command in ([os.environ.get("COMPOSE", "docker-compose")], ["docker", "compose"]):
        if shutil.which(command[0]) is None:
            continue
        found = subprocess.run([*command, "version"], capture_output=True, check=False)
        if found.returncode == 0:
            return command
    return None


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["single", "cluster"])
def test_compose_takes_the_file(made: Path, profile: str) -> None:
    tool = compose_tool()
    if tool is None:
        pytest.skip("no docker compose: the file is checked by its structure only")
    command = [*tool, "--profile", profile, "config", "--services"]
    services = subprocess.run(command, cwd=made, check=True, capture_output=True, text=True)

    assert set(services.stdout.split()) == (CLUSTER if profile == "cluster" else {"angarium"})


@pytest.mark.slow
def test_the_stores_user_is_made_once_and_then_kept_up_to_date(tmp_path: Path) -> None:
    if find_server() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no SecantusDB is installed")
    source: dict[str, Any] = {"__name__": "init"}
    exec((DEPLOY / "mongo" / "init.py").read_text(), source)
    server = MongoServer(tmp_path)
    try:
        # Joining the members is not run here: the test server cannot be told to.
        with source["MongoClient"](server.uri) as client:
            source["wait_primary"](client)
            for password in ("first", "second"):
                source["make_user"](client["angarium"], "angarium", password)
            users = client["angarium"].command("usersInfo")["users"]
    finally:
        server.close()

    assert [user["user"] for user in users] == ["angarium"]


def test_the_image_is_made_of_locked_packages_and_runs_as_nobody() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    final = text[text.rindex("\nFROM ") :]

    assert final.startswith("\nFROM scratch\n")
    assert "\nUSER 10001:10001\n" in final
    assert "/readyz" in final
    installs = re.findall(
        r"pip (?:--python \S+ )?install (.*?)(?: &&|$)", text.replace("\\\n", "")
    )
    assert installs
    assert all("--require-hashes" in line or "wheels/" in line for line in installs)


def test_the_image_gets_the_versions_that_are_tested() -> None:
    def pins(name: str) -> dict[str, str]:
        pinned = (ROOT / "locks" / name).read_text()
        return dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+)", pinned, re.M))

    tested = pins("dev.txt")
    for lock in ("image.txt", "build.txt"):
        assert pins(lock)
        assert pins(lock).items() <= tested.items()
    assert {"pymongo", "redis", "cryptography"} <= pins("image.txt").keys()
