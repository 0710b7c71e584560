"""The house rules that a machine can hold: floors, sizes, banned words, no circles."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "angarium"
FLOORS = """
    errors
    ids clock limits telemetry
    resilience config model
    protocol e2ee storage bus kms channels
    messaging keys sdk
    agents bridge
    server
    adapters
    node
    testing examples
    cli
    __main__
"""  # Ground first. A line may import only from lines above it.
FLOOR = {part: n for n, line in enumerate(FLOORS.split("\n")) for part in line.split()}
FILES = sorted(SOURCE.rglob("*.py"))
# Shown to users at the top: `from angarium import Agent`. Imports nothing until asked.
MODULES = [path for path in FILES if path != SOURCE / "__init__.py"]
BANNED = re.compile(
    r"(Manager|Helper|Util|Utils|Processor|Info|Abstract|Impl|Wrapper|Common|Misc)$|V2$|^Base[A-Z]"
    r"|^Data$|[a-z]Data$|[a-z]Base$"
)
LINES_MAX = 500
FUNCTION_LINES_MAX = 60


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Full names of what a file imports from the product, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("angarium.")}


def definitions(path: Path) -> list[ast.AST]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    own = part_of(path)
    parts = {name.split(".")[1] for name in imported_modules(path)} - {own}
    above = {part for part in parts if FLOOR.get(part, 99) >= FLOOR[own]}
    assert not above, f"{name_of(path)} reaches up or sideways to {sorted(above)}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_fit_in_the_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_fit_on_a_screen(path: Path) -> None:
    long = [
        node.name
        for node in definitions(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno > FUNCTION_LINES_MAX
    ]
    assert not long


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_names_say_what_a_thing_is(path: Path) -> None:
    banned = [
        node.name
        for node in definitions(path)
        if isinstance(node, ast.ClassDef) and BANNED.search(node.name)
    ]
    assert not banned


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_type_checking_blocks_hide_circles(path: Path) -> None:
    assert "TYPE_CHECKING" not in path.read_text()


def reachable(start: str) -> set[str]:
    """Every module that a package reaches through imports, however deep."""
    seen: set[str] = set()
    pending = [path for path in FILES if part_of(path) == start]
    while pending:
        for name in imported_modules(pending.pop()):
            path = SOURCE.joinpath(*name.split(".")[1:])
            for module in (path.with_suffix(".py"), path.parent.with_suffix(".py")):
                if module.exists() and name_of(module) not in seen:
                    seen.add(name_of(module))
                    pending.append(module)
    return seen


def test_the_relay_cannot_reach_a_type_for_plaintext() -> None:
    reached = reachable("messaging") | reachable("protocol") | reachable("keys")
    assert reached, "the walk found nothing: it is broken"
    assert not {name for name in reached if "/e2ee/" in name or "/sdk/" in name}


def test_no_frame_has_a_field_for_plaintext() -> None:
    from angarium.protocol import frames

    fields = {
        field
        for member in (*frames.ClientFrame.__args__, *frames.ServerFrame.__args__)
        for field in member.__struct_fields__
    }
    assert not fields & {"text", "body", "plaintext", "content", "message"}


def test_modules_of_one_package_do_not_import_in_circles() -> None:
    graph = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): imported_modules(path)
        for path in MODULES
    }
    edges = {
        module: {
            target
            for name in names
            for target in (name, name.rpartition(".")[0])
            if target in graph
        }
        for module, names in graph.items()
    }
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module in done:
            return
        for target in sorted(edges[module] - {module}):
            walk(target, (*trail, module))
        done.add(module)

    for module in sorted(edges):
        walk(module, ())


PRIVATE = re.compile(
    "/work" + "/|/ro" + "ot/|pypi-" + "more|registry" + r"\.npmjs|files\.pyth" + "onhosted"
)


def test_no_path_of_a_machine_and_no_registry_host_is_in_the_tree() -> None:
    kinds = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".cfg", ""}
    places = ["src", "tests", "docs", "examples", "locks", ".ci"]
    files = [path for place in places for path in (ROOT / place).rglob("*") if path.is_file()]
    files += [ROOT / "README.md", ROOT / "Makefile", ROOT / "pyproject.toml"]
    read = [path for path in files if path.suffix in kinds and "__pycache__" not in path.parts]
    assert not [
        name_of(path) for path in read if PRIVATE.search(path.read_text(errors="replace"))
    ]
