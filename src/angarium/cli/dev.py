"""`angarium dev`: serve agents on this machine, and take up what changes as it is saved."""

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import typer
from rich.console import Console
from rich.markup import escape

from angarium.adapters.agents import AgentService
from angarium.cli.admin import DATA_HELP, SERVICES
from angarium.cli.serve import serve
from angarium.config import Settings, load_settings
from angarium.errors import Misconfigured
from angarium.limits import DEV_FILES_MAX, DEV_LOOK_S
from angarium.node import Node

_SUFFIXES = (".py", ".toml", ".md", ".txt", ".json")
_APART = ("__pycache__", "node_modules", "site-packages", "venv")
Stamps = Mapping[str, tuple[int, int]]
Say = Callable[[str], None]


def dev(
    agents: str = typer.Argument(
        None, help="Module, Python file or TOML file; default: the setting `agents`."
    ),
    data: Path = typer.Option(None, help=DATA_HELP),
) -> None:
    """Serve agents with everything around them, and load them anew when their files change."""
    given = {"agents": agents, "data": data}
    settings = load_settings(**{name: value for name, value in given.items() if value})
    if settings.environment == "production":
        raise Misconfigured("environment is production; use `angarium serve` there")
    # Two versions of a file within a second would share one cached bytecode.
    sys.dont_write_bytecode = True
    out = Console(highlight=False)

    async def beside(node: Node) -> None:
        if node.agents is not None:
            _say_how(node, out, data)
            reloader = Reloader(node.agents, folder_of(settings.agents), out.print)
            await reloader.run()

    raise typer.Exit(serve(settings, set(SERVICES), beside=beside))


class Reloader:
    """Watches the files of a project by their times; a change loads its agents anew.

    What does not load is said, and the old agents stay. Connections and turns know nothing.
    """

    def __init__(self, service: AgentService, folder: Path, say: Say) -> None:
        self._service, self._folder, self._say = service, folder, say

    async def run(self, every_s: float = DEV_LOOK_S) -> None:
        """Until cancelled."""
        seen = await asyncio.to_thread(stamps, self._folder)
        while True:
            await asyncio.sleep(every_s)
            now = await asyncio.to_thread(stamps, self._folder)
            if now != seen:
                changed = sorted(set(now.items()) ^ set(seen.items()))
                seen = now
                self._reload(Path(changed[0][0]).name)

    def _reload(self, changed: str) -> None:
        taken = take_modules(self._folder)
        try:
            roster = self._service.reload()
        except Misconfigured as error:
            take_modules(self._folder)
            sys.modules.update(taken)
            sentence = f"{changed} changed and does not load; the old agents stay: {error}"
            self._say(f"[red]{escape(sentence)}[/]")
        else:
            names = ", ".join(roster.agents)
            self._say(f"{escape(changed)} changed; now answering: [bold]{escape(names)}[/]")


def folder_of(place: str) -> Path:
    """Where the files of these agents are. Raises Misconfigured."""
    if place.endswith((".py", ".toml")) or "/" in place:
        return Path(place).resolve().parent
    try:
        found = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        raise Misconfigured(f"agents {place!r}: there is no such module")
    return Path(found.origin).resolve().parent


def stamps(folder: Path) -> Stamps:
    """Time and size of the files that agents may be made of."""
    found: dict[str, tuple[int, int]] = {}
    for path in _files(folder):
        try:
            about = path.stat()
        except OSError:
            continue  # It went while we looked.
        found[str(path)] = (about.st_mtime_ns, about.st_size)
        if len(found) >= DEV_FILES_MAX:
            break
    return found


def take_modules(folder: Path) -> dict[str, ModuleType]:
    """Forget the modules of a folder, so that they are imported anew. Returns them."""
    taken = {
        name: module
        for name, module in list(sys.modules.items())
        if name != "__main__" and _is_of(module, folder)
    }
    for name in taken:
        del sys.modules[name]
    importlib.invalidate_caches()
    return taken


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _APART:
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.suffix in _SUFFIXES:
            yield path


def _is_of(module: ModuleType, folder: Path) -> bool:
    place = getattr(module, "__file__", None)
    if not isinstance(place, str):
        return False
    path = Path(place)
    return path.is_relative_to(folder) and not set(path.relative_to(folder).parts) & set(_APART)


def _say_how(node: Node, out: Console, data: Path | None) -> None:
    settings: Settings = node.settings
    names = ", ".join(node.agents.registry.names) if node.agents is not None else ""
    where = f" --data {data}" if data else ""
    out.print(
        f"\n[bold]Angarium[/] serves {escape(settings.agents)}: [bold]{escape(names)}[/]\n"
    )
    rows = [("chat", f"angarium chat{where}")]
    if not settings.twilio_account_sid:
        rows.append(("WhatsApp", f"angarium phone{where}"))
    rows += [
        ("OpenAI", f"{node.http_url}/v1, model = an agent"),
        ("HTTP API", f"{node.http_url}/openapi.json"),
    ]
    for name, command in rows:
        out.print(f"  {name:<10} {escape(command)}")
    out.print(
        f"\nWhat you save in {folder_of(settings.agents)} is taken up at once. Ctrl-C ends.\n"
    )
