"""The `angarium` command. A command's code is imported when it is called, not for `--help`."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
import typer.main
from typer.core import TyperGroup

from angarium.errors import AngariumError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": ("angarium.cli.admin:serve", "Run the services of a node until it is stopped."),
    "dev": ("angarium.cli.dev:dev", "Serve agents, and take up what you change as you save."),
    "new": ("angarium.cli.new:new", "Make a small project to start from."),
    "model": ("angarium.cli.model:model", "Fetch a small language model that needs no key."),
    "lint": ("angarium.cli.agents:lint", "Say which agents are hard to tell apart, and why."),
    "eval": ("angarium.cli.agents:evaluate", "Try the dialogues that the agents declare."),
    "chat": ("angarium.cli.admin:chat", "Talk to agents and people from the terminal."),
    "phone": ("angarium.cli.admin:phone", "Be a WhatsApp user, on a simulated phone."),
    "token": ("angarium.cli.admin:token", "Print an access token for a user."),
    "db": ("angarium.cli.db:app", "Migrate, back up, restore, check, copy the store."),
    "turns": ("angarium.cli.turns:app", "List agents' turns; replay or cancel one."),
    "doctor": ("angarium.cli.doctor:doctor", "Explain what is missing or wrong here."),
    "bench": ("angarium.cli.admin:bench", "Measure, and print figures."),
    "settings": ("angarium.cli.admin:settings", "Print the table of all settings."),
    "version": ("angarium.cli.admin:version", "Print the version."),
}


class LazyGroup(TyperGroup):
    """Knows names and one-line texts; imports the one command that is run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(module), name)
        if not isinstance(found, typer.Typer):
            function, found = found, new_app()
            found.command(cmd_name)(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


def new_app(**options: Any) -> typer.Typer:
    """A Typer in our manner: plain text, no completion, no decorated tracebacks."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        **options,
    )


def root() -> None:
    """Messages between people and AI agents: end-to-end encrypted apps and WhatsApp."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 a check failed, 2 an error (one line on stderr)."""
    app = new_app(cls=LazyGroup, no_args_is_help=True)
    app.callback()(root)
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="angarium")
    except AngariumError as error:
        print(f"error[{error.code}]: {one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    except BrokenPipeError:
        # The reader has seen enough (`angarium settings | head`); keep the interpreter quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def one_line(error: AngariumError) -> str:
    sentence = " ".join(str(error).split())
    return sentence or " ".join((type(error).__doc__ or "").split())
