"""`angarium doctor`: looks at everything a node needs and says what to do about each."""

import asyncio
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import typer

from angarium.adapters.store import check_shared as demand_agreement
from angarium.cli.admin import DATA_HELP, announced, load_with
from angarium.cli.stores import Place, place_of_settings
from angarium.clock import SystemClock
from angarium.config import Settings
from angarium.errors import AngariumError, Misconfigured, Unavailable
from angarium.limits import AUDIT_PAGE_MAX
from angarium.server.auth import SECRET_BYTES_MIN, SECRET_FILE
from angarium.server.http import bind
from angarium.storage.sqlite.connection import FILE_NAME
from angarium.storage.sqlite.store import open_sqlite

Level = Literal["ok", "warn", "fail"]
FREE_BYTES_WARN = 1024**3
FREE_BYTES_FAIL = 100 * 1024**2
ANSWER_WAIT_S = 3.0
YEAR_2025_S = 1_735_689_600
PYTHON_MIN = (3, 11)
PACKAGES = ("cryptography", "fastapi", "msgspec", "picows", "uvloop", "uvicorn", "vodozemac")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do unless all is well."""

    level: Level
    what: str
    sentence: str
    advice: str = ""

    def line(self) -> str:
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{self.level:<4} {self.what:<14} {self.sentence}{advice}"


def doctor(data: Path = typer.Option(None, help=DATA_HELP)) -> None:
    """Explain what is missing or wrong here. Exit code 1 when something fails."""
    findings = [*examine_machine()]
    try:
        settings = load_with(data)
    except Misconfigured as error:
        advice = "correct the variable, angarium.toml or secret file; see `angarium settings`"
        findings.append(Finding("fail", "settings", str(error), advice))
    else:
        findings += examine(settings)
    for finding in findings:
        print(finding.line())
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


def examine_machine() -> Iterator[Finding]:
    """What does not depend on settings."""
    have = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= PYTHON_MIN
    yield Finding(
        "ok" if good else "fail", "python", have, "" if good else "install 3.11 or newer"
    )
    yield check_packages()
    yield check_clock()


def examine(settings: Settings) -> Iterator[Finding]:
    """What depends on settings; each check is independent of the others."""
    yield Finding("ok", "settings", f"environment {settings.environment}, data {settings.data}")
    checks: tuple[Callable[[Settings], Finding], ...] = (
        check_folder,
        check_disk,
        check_store,
        check_bus,
        check_secret,
        check_kms,
        check_agents,
        check_twilio,
        check_public_url,
    )
    for check in checks:
        try:
            yield check(settings)
        except OSError as error:
            yield Finding("fail", check.__name__[6:], error.strerror or "cannot be examined")
    yield from check_ports(settings)


def check_packages() -> Finding:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return Finding("fail", "packages", f"missing: {', '.join(missing)}", "run: make run")
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES[-3:])
    return Finding("ok", "packages", versions)


def check_clock() -> Finding:
    if time.time() < YEAR_2025_S:
        return Finding(
            "fail", "clock", "the clock is years behind", "set it; tokens expire by it"
        )
    return Finding("ok", "clock", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def check_folder(settings: Settings) -> Finding:
    folder = existing_parent(settings.data)
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"angarium")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        advice = f"make {folder} writable for this user, or set ANGARIUM_DATA"
        return Finding("fail", "data folder", f"{folder}: {error.strerror}", advice)
    made = "" if settings.data.exists() else " (made at first start)"
    return Finding("ok", "data folder", f"{settings.data} is writable{made}")


def check_disk(settings: Settings) -> Finding:
    free = shutil.disk_usage(existing_parent(settings.data)).free
    sentence = f"{free / 1024**3:.1f} GiB free"
    if free < FREE_BYTES_FAIL:
        return Finding(
            "fail", "disk", sentence, "free space: sends are refused when it is full"
        )
    if free < FREE_BYTES_WARN:
        return Finding("warn", "disk", sentence, "free space soon")
    return Finding("ok", "disk", sentence)


def check_secret(settings: Settings) -> Finding:
    given = settings.token_secret.get_secret_value()
    path = settings.data / SECRET_FILE
    if given and len(given.encode()) < SECRET_BYTES_MIN:
        advice = f"use at least {SECRET_BYTES_MIN} random bytes"
        return Finding("fail", "token secret", "ANGARIUM_TOKEN_SECRET is short", advice)
    if given:
        return Finding("ok", "token secret", "from settings")
    if path.exists() and path.stat().st_mode & 0o077:
        return Finding("fail", "token secret", f"others can read {path}", f"chmod 600 {path}")
    kept = f"in {path}" if path.exists() else "made at first start"
    if settings.environment == "production":
        advice = "set ANGARIUM_TOKEN_SECRET where several nodes must agree"
        return Finding("warn", "token secret", kept, advice)
    return Finding("ok", "token secret", kept)


def check_kms(settings: Settings) -> Finding:
    scheme = urlsplit(settings.kms_url).scheme or "local"
    shared = urlsplit(settings.kms_url).path
    if scheme != "local":
        advice = "this version knows local:// only; leave ANGARIUM_KMS_URL empty"
        return Finding("fail", "kms", f"no key service {scheme}://", advice)
    if settings.environment == "production":
        advice = "whoever reads that file can open what is sealed; protect its disk"
        return Finding("warn", "kms", f"local keys in {shared or 'the data folder'}", advice)
    return Finding("ok", "kms", f"local keys in {shared or 'the data folder'}")


def check_agents(settings: Settings) -> Finding:
    name = settings.agents
    advice = "set ANGARIUM_AGENTS to a module or a file that defines agents"
    if name.endswith(".py"):
        if not Path(name).is_file():
            return Finding("fail", "agents", f"no file {name}", advice)
        try:
            compile(Path(name).read_bytes(), name, "exec")
        except SyntaxError as error:
            return Finding(
                "fail", "agents", f"{name}:{error.lineno}: {error.msg}", "correct it"
            )
        return Finding("ok", "agents", name)
    if name.endswith(".toml"):
        from angarium.agents.loading import load_declared

        try:
            load_declared(name)
        except Misconfigured as error:
            return Finding("fail", "agents", str(error), "correct it")
        return Finding("ok", "agents", name)
    try:
        importlib.import_module(name)
    except Exception as error:  # It is the user's code: anything may be wrong with it.
        sentence = f"{name} does not import: {type(error).__name__}: {error}"
        return Finding("fail", "agents", sentence, advice)
    return Finding("ok", "agents", name)


def check_twilio(settings: Settings) -> Finding:
    needed = {
        "twilio_account_sid": settings.twilio_account_sid,
        "twilio_auth_token": settings.twilio_auth_token.get_secret_value(),
        "twilio_sender": settings.twilio_sender,
        "public_base_url": settings.public_base_url,
    }
    missing = [f"ANGARIUM_{name.upper()}" for name, value in needed.items() if not value]
    if len(missing) == len(needed):
        return Finding("ok", "twilio", "not set up; the phone simulator is used")
    if missing:
        return Finding("fail", "twilio", "half set up", f"set {', '.join(missing)}")
    if not settings.twilio_account_sid.startswith("AC"):
        return Finding("fail", "twilio", "the account id is wrong", "it begins with AC")
    if not settings.twilio_sender.startswith("whatsapp:+"):
        return Finding(
            "fail", "twilio", "the sender is wrong", "write whatsapp:+ and the number"
        )
    return Finding("ok", "twilio", "account, token, sender and public URL are set")


def check_public_url(settings: Settings) -> Finding:
    url = settings.public_base_url
    if not url:
        return Finding("ok", "public URL", "none; reachable on this machine only")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        return Finding("fail", "public URL", f"{url} is no URL", "write https://host")
    if urlsplit(url).scheme == "http" and settings.environment == "production":
        return Finding("fail", "public URL", "not https", "put a TLS proxy before the node")
    return Finding("ok", "public URL", url)


def check_store(settings: Settings) -> Finding:
    """The store opens, and nothing in it was given up."""
    if settings.store_url.get_secret_value():
        return check_shared_store(settings)
    if not (settings.data / FILE_NAME).exists():
        return Finding("ok", "store", "none yet; made at first start")
    try:
        turns, webhooks = asyncio.run(count_dead_letters(settings.data))
    except AngariumError as error:
        return Finding("fail", "store", f"{error.code}: {error}", "see the runbooks")
    if turns or webhooks:
        sentence = f"{turns} turns and {webhooks} webhooks were given up"
        return Finding("warn", "store", sentence, "look at /v1/admin/turns and webhooks/dead")
    return Finding("ok", "store", "opens; no dead letters")


def check_shared_store(settings: Settings) -> Finding:
    """The database answers and has our schema; nothing is made there."""
    shown = "store"
    try:
        place = place_of_settings(settings)
        shown = place.shown
        demand_agreement(settings)
        before = asyncio.run(find_schema(place))
    except AngariumError as error:
        return Finding("fail", "store", f"{shown}: {error.code}: {error}", "see the runbooks")
    made = "has our schema" if before else "is empty; prepared at first start"
    return Finding("ok", "store", f"{shown} answers and {made}")


async def find_schema(place: Place) -> int:
    """The schema version at `place`; 0: none yet. Raises what opening it would."""
    from angarium.storage.mongo.link import Link
    from angarium.storage.mongo.schema import check_version, version_of

    link = Link(place.url, place.database, call_s=ANSWER_WAIT_S)
    try:
        version = await version_of(link)
        if version:
            await check_version(link)
        return version
    finally:
        await link.close()


def check_bus(settings: Settings) -> Finding:
    """Redis answers where nodes are to hear each other through it."""
    url, shared = settings.bus_url.get_secret_value(), settings.store_url.get_secret_value()
    if not url:
        if not shared:
            return Finding("ok", "bus", "inside this process")
        advice = "set ANGARIUM_BUS_URL; without it each node asks the store each second"
        return Finding("warn", "bus", "nodes do not hear each other", advice)
    if not shared:
        return Finding("fail", "bus", "a bus without a shared store", "set ANGARIUM_STORE_URL")
    try:
        asyncio.run(ping_redis(url))
    except AngariumError as error:
        advice = "nodes start without it and deliver more slowly; start it, or correct the URL"
        level: Level = "warn" if isinstance(error, Unavailable) else "fail"
        return Finding(level, "bus", f"{error.code}: {error}", advice)
    return Finding("ok", "bus", "redis answers")


async def ping_redis(url: str) -> None:
    """Raises Misconfigured (the URL, the client or the credentials) or Unavailable."""
    from angarium.bus.redis_link import REDIS_FAILS, REDIS_REFUSES, open_link

    link = open_link(url)
    try:
        await link.client.ping()
    except REDIS_REFUSES:
        raise Misconfigured("redis refuses the user or password of its URL") from None
    except REDIS_FAILS:
        raise Unavailable("redis does not answer") from None
    finally:
        await link.close()


async def count_dead_letters(folder: Path) -> tuple[int, int]:
    """Failed turns and dead webhooks, each counted up to AUDIT_PAGE_MAX."""
    sqlite = await open_sqlite(folder, SystemClock())
    try:
        turns = await sqlite.store.turns.list_recent(AUDIT_PAGE_MAX, "failed")
        webhooks = await sqlite.store.webhooks.list_dead(AUDIT_PAGE_MAX)
    finally:
        await sqlite.close()
    return len(turns), len(webhooks)


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Both ports can be listened on, unless the node of this folder holds them."""
    own = served_ports(settings.data)
    ports = {"port": settings.port, "websocket_port": settings.websocket_port}
    for name, port in ports.items():
        if port in own:
            yield Finding("ok", name, f"{port} is held by the running node of this folder")
            continue
        try:
            bind(settings.host, port).close()
        except AngariumError as error:
            advice = f"stop what listens there, or set ANGARIUM_{name.upper()}"
            yield Finding("fail", name, str(error), advice)
        else:
            yield Finding("ok", name, f"{port} is free" if port else "any free one")


def served_ports(folder: Path) -> set[int | None]:
    """The ports of the living node that serves this folder; empty when there is none."""
    said = announced(folder)
    try:
        os.kill(int(said["pid"]), 0)
        return {urlsplit(str(said[name])).port for name in ("http_url", "websocket_url")}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def existing_parent(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
