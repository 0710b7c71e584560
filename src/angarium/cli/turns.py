"""`angarium turns`: what became of messages, and what to do about those that failed.

All of it goes through the node's operators' pages, so that it is audited there.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import typer

from angarium.cli.admin import DATA_HELP, full_user, load_with, login_name, node_url
from angarium.cli.main import new_app
from angarium.errors import Malformed, Unavailable
from angarium.sdk.api import error_of
from angarium.server.auth import mint_token

app = new_app(no_args_is_help=True, help="List agents' turns; replay or cancel one.")
TOKEN_TTL_S = 60.0
WAIT_S = 10.0
TURN_HELP = "CONVERSATION/SEQUENCE, as `list` shows it."
URL_HELP = "HTTP URL of the node; default: the one of this folder."


@app.command("list")
def list_turns(
    state: str = typer.Option(None, help="Only these: failed, running, waiting, ..."),
    limit: int = typer.Option(20, min=1, max=200, help="At most so many, the newest first."),
    url: str = typer.Option(None, help=URL_HELP),
    data: Path = typer.Option(None, help=DATA_HELP),
) -> None:
    """List turns, the newest first: state, agent, attempts, reason."""
    query = f"?limit={limit}" + (f"&state={state}" if state else "")
    for turn in ask(data, url, "GET", query)["turns"]:
        mark = " replayable" if turn["replayable"] else ""
        print(
            f"{turn['conversation']}/{turn['sequence']}  {when(turn['updated_ms'])}"
            f"  {turn['state']}{mark}  @{turn['agent'] or '-'}  {turn['attempts']}x"
            f"  {turn['reason']}"
        )


@app.command()
def show(
    turn: str = typer.Argument(help=TURN_HELP),
    url: str = typer.Option(None, help=URL_HELP),
    data: Path = typer.Option(None, help=DATA_HELP),
) -> None:
    """Print what is known of one turn, as JSON; never what was said."""
    print(json.dumps(ask(data, url, "GET", path_of(turn)), indent=2))


@app.command()
def replay(
    turn: str = typer.Argument(help=TURN_HELP),
    url: str = typer.Option(None, help=URL_HELP),
    data: Path = typer.Option(None, help=DATA_HELP),
) -> None:
    """Have a failed turn begun again; its answer is one more message."""
    ask(data, url, "POST", f"{path_of(turn)}/replay")
    print("ordered; `angarium turns show` tells what comes of it")


@app.command()
def cancel(
    turn: str = typer.Argument(help=TURN_HELP),
    url: str = typer.Option(None, help=URL_HELP),
    data: Path = typer.Option(None, help=DATA_HELP),
) -> None:
    """Have an open turn ended; the person is told."""
    ask(data, url, "POST", f"{path_of(turn)}/cancel")
    print("ordered; `angarium turns show` tells what comes of it")


def path_of(turn: str) -> str:
    """Raises Malformed."""
    conversation, _, sequence = turn.rpartition("/")
    if not conversation or not sequence.isdecimal():
        raise Malformed(f"{turn!r} is no turn; name it CONVERSATION/SEQUENCE")
    return f"/{conversation}/{sequence}"


def ask(data: Path | None, url: str | None, method: str, path: str) -> dict[str, Any]:
    """The answer of the node's pages about turns. Raises what they answer, and Unavailable."""
    found = load_with(data)
    secret = found.token_secret.get_secret_value().encode()
    user = full_user(login_name(), found.domain)
    token = mint_token(found.data, user, ["user", "admin"], TOKEN_TTL_S, secret)
    address = f"{url or node_url(found)}/v1/admin/turns{path}"
    try:
        with httpx2.Client(trust_env=False, timeout=WAIT_S) as client:
            answer = client.request(
                method, address, headers={"Authorization": f"Bearer {token}"}
            )
    except httpx2.HTTPError as error:
        raise Unavailable(f"the node does not answer: {type(error).__name__}") from None
    if not answer.is_success:
        raise error_of(answer.status_code, answer.content)
    told: dict[str, Any] = answer.json()
    return told


def when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
