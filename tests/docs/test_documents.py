"""The documentation's code runs, its links lead somewhere, and its tables match the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_compile(page: Path) -> None:
    for block in python_blocks(page):
        compile(block, name_of(page), "exec")


def test_every_frame_stands_in_the_protocol_page() -> None:
    from angarium.protocol import frames

    page = (ROOT / "docs" / "reference" / "protocol.md").read_text()
    members = {*frames.ClientFrame.__args__, *frames.ServerFrame.__args__}
    tags = {member.__struct_config__.tag for member in members}
    listed = set(re.findall(r"^\| (?:C>S|S>C|both) \| ([a-z_, ]+) \|", page, re.MULTILINE))
    words = {word.strip() for entry in listed for word in entry.split(",")}
    assert words == tags


def test_every_close_code_stands_in_the_protocol_page() -> None:
    from angarium.errors import every_error

    page = (ROOT / "docs" / "reference" / "protocol.md").read_text()
    codes = {str(error.close_code) for error in every_error().values()}
    assert codes <= set(re.findall(r"^\| (\d{4}) \|", page, re.MULTILINE))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
