"""A made-up Twilio account for development, so that the phone simulator and the node agree."""

import json
import os
import secrets
from pathlib import Path

from angarium.errors import Misconfigured, StoreUnwritable

DEVELOPMENT_NUMBER = "whatsapp:+15550006060"  # 555: no such number is ever given out


def development_twilio(folder: Path) -> tuple[str, str, str]:
    """(account sid, auth token, our number) of this data folder, made once, readable by its
    owner only. Raises Misconfigured (the file is broken), StoreUnwritable."""
    path = folder / "twilio-dev.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        kept = json.loads(path.read_text())
        return str(kept["account_sid"]), str(kept["auth_token"]), str(kept["number"])
    except OSError as error:
        raise StoreUnwritable(f"{path.name} cannot be made or read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise Misconfigured(f"{path} is broken; delete it and start again") from None


def _make(path: Path) -> None:
    account = {
        "account_sid": "AC" + secrets.token_hex(16),
        "auth_token": secrets.token_hex(16),
        "number": DEVELOPMENT_NUMBER,
    }
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(account, file)
    try:
        os.link(draft, path)  # Never replaces what another process has just made.
    except FileExistsError:
        pass
    finally:
        draft.unlink()
