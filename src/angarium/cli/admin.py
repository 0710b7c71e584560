"""Short commands: each reads its settings, calls the part that does the work, prints."""

import getpass
import json
import re
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import typer

from angarium.config import Settings, load_settings
from angarium.errors import Misconfigured
from angarium.ids import check_user_id
from angarium.server.auth import LOCAL_TOKEN_TTL_S, mint_token

SERVICES = ("messaging", "gateway", "bridge")
ANNOUNCEMENT = "node.json"  # Written by `serve` in the data folder once it is ready.
DATA_HELP = "Folder of the embedded store and keys."


def serve(
    services: list[str] = typer.Argument(None, help="all | messaging | gateway | bridge"),
    self_check: bool = typer.Option(False, help="Show a live transcript once ready."),
) -> None:
    """Run the services of a node until SIGTERM or Ctrl-C; then drain and exit."""
    wanted = chosen_services(services or ["all"])
    from angarium.cli.serve import serve as run

    raise typer.Exit(run(load_settings(), wanted, self_check=self_check))


def chosen_services(names: list[str]) -> set[str]:
    """The services named. Raises Misconfigured."""
    if unknown := set(names) - {"all", *SERVICES}:
        known = ", ".join(("all", *SERVICES))
        raise Misconfigured(f"no service {', '.join(sorted(unknown))}; there are: {known}")
    return set(SERVICES) if "all" in names else set(names)


def token(
    user: str = typer.Argument(help="@name:domain, or a name of this domain."),
    admin: bool = typer.Option(False, help="Also allow the operators' pages."),
    identity: bool = typer.Option(False, help="Also allow replacing the master key."),
    agents_only: bool = typer.Option(False, help="Only allow asking agents over HTTP."),
    hours: float = typer.Option(LOCAL_TOKEN_TTL_S / 3600, min=0.01, help="Valid this long."),
    data: Path = typer.Option(None, help=DATA_HELP),
) -> None:
    """Print an access token for a user, signed with the secret of the data folder."""
    found = load_with(data)
    extra = [scope for scope, on in (("admin", admin), ("identity", identity)) if on]
    print(
        mint_token(
            found.data,
            full_user(user, found.domain),
            ["agents" if agents_only else "user", *extra],
            hours * 3600,
            found.token_secret.get_secret_value().encode(),
        )
    )


def chat(
    to: str = typer.Argument("", help="Whom to talk to; default: the node's agents."),
    say: str = typer.Option(None, help="Send one message, print the answers, exit."),
    user: str = typer.Option(None, help="Who you are; default: your login name."),
    url: str = typer.Option(
        None, help="HTTP URL of the node; default: the one of this folder."
    ),
    access_token: str = typer.Option(
        None,
        "--token",
        envvar="ANGARIUM_TOKEN",
        help="Default: minted with the folder's secret.",
    ),
    wait: float = typer.Option(30.0, min=0.1, help="Seconds to wait for an answer."),
    data: Path = typer.Option(None, help=DATA_HELP),
) -> None:
    """Talk to agents and people, end-to-end encrypted."""
    from angarium.cli.chat import chat as run

    found = load_with(data)
    name = person(full_user(user or login_name(), found.domain))
    secret = found.token_secret.get_secret_value().encode()
    outcome = run(
        url=url or node_url(found),
        user=name,
        token=access_token or partial(mint_token, found.data, name, secret=secret),
        folder=found.data / "clients" / name.replace(":", "_"),
        to=full_user(to, found.domain) if to else "",
        say=say,
        wait_s=wait,
    )
    finish(outcome)


def phone(
    say: str = typer.Option(None, help="Send one message, print the answer, exit."),
    number: str = typer.Option(None, help="The phone's number: +15550100."),
    url: str = typer.Option(None, help="Webhook URL; default: of this folder's node."),
    api_port: int = typer.Option(None, help="Where Twilio's API is simulated."),
    wait: float = typer.Option(30.0, min=0.1, help="Seconds to wait for an answer."),
    data: Path = typer.Option(None, help=DATA_HELP),
) -> None:
    """Be a WhatsApp user: a phone and Twilio's API, simulated on this machine."""
    from angarium.cli.phone import phone as run

    found = load_with(data)
    chosen: dict[str, Any] = {"number": number} if number else {}
    outcome = run(
        data=found.data,
        webhook_url=url or f"{node_url(found)}/webhooks/twilio",
        api_port=api_port or found.phone_port,
        say=say,
        wait_s=wait,
        **chosen,
    )
    finish(outcome)


def bench(
    name: str = typer.Argument(help="Which benchmark: append, journey, ..."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object and nothing else."),
    seconds: float = typer.Option(10.0, min=0.1, help="How long to measure."),
    data: Path = typer.Option(None, help="Of route: a folder with CLINC150."),
    examples: Path = typer.Option(None, help="Of route: your agents' examples, JSON lines."),
    evaluate: Path = typer.Option(None, "--eval", help="Of route: messages and dialogues."),
) -> None:
    """Measure, and print figures with the machine they were taken on."""
    from angarium.cli.bench import bench as run

    run(name, as_json=as_json, seconds=seconds, data=data, examples=examples, evaluate=evaluate)


def settings() -> None:
    """Print the reference table of all settings as Markdown."""
    print(settings_table())


def version() -> None:
    """Print the version of this installation."""
    print(current_version())


def current_version() -> str:
    try:
        return version_of("angarium")
    except PackageNotFoundError:
        return "0+source"


def settings_table() -> str:
    """Every setting, its variable, default and meaning, from the fields of `Settings`."""
    rows = ["| Setting | Variable | Default | Meaning |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = str(field.default) if field.default not in (None, "") else ""
        shown = f"`{default}`" if default else "empty"
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | `ANGARIUM_{name.upper()}` | {shown} | {meaning} |")
    return "\n".join(rows)


def load_with(data: Path | None) -> Settings:
    """Settings, with the data folder given on the command line. Raises Misconfigured."""
    return load_settings(**({"data": data} if data else {}))


def full_user(name: str, domain: str) -> str:
    """`ada` and `@ada` mean `@ada:<domain>`. Raises Malformed."""
    if ":" not in name:
        name = f"@{name.removeprefix('@')}:{domain}"
    return check_user_id(name)


def person(user: str) -> str:
    """`user`, if a person can have this name. Raises Misconfigured."""
    if user.startswith(("@wa_", "@gateway:")):
        raise Misconfigured(f"{user} is an account of the product itself; choose another name")
    return user


def login_name() -> str:
    """The login name as a user id allows it; `me` when nothing of it is left."""
    try:
        name = getpass.getuser().lower()
    except (OSError, KeyError, ImportError):
        name = ""
    return re.sub(r"^[^a-z0-9]+|[^a-z0-9._=/+-]", "", name) or "me"


def announced(folder: Path) -> dict[str, Any]:
    """Where the node that serves this folder is; empty when none has said so."""
    try:
        found = json.loads((folder / ANNOUNCEMENT).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def node_url(settings: Settings) -> str:
    """The HTTP URL of the node of this data folder, else the one the settings mean."""
    said = announced(settings.data).get("http_url")
    return str(said) if said else f"http://{settings.host}:{settings.port}"


def finish(outcome: int) -> None:
    """Exit with the number a command returns, if it is not 0."""
    if outcome:
        raise typer.Exit(outcome)
