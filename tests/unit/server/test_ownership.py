"""The name of a process survives it, and is never two processes'."""

import subprocess
import sys
from pathlib import Path

import pytest

from angarium.errors import StoreUnwritable
from angarium.server.ownership import Ownership

HOLD = """
import os, signal, sys
from pathlib import Path
from angarium.server.ownership import Ownership
print(Ownership(Path(sys.argv[1]), {"gateway"}).name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_second_process_gets_a_name_of_its_own(tmp_path: Path) -> None:
    first, second = Ownership(tmp_path, {"gateway"}), Ownership(tmp_path, {"gateway"})
    assert first.name != second.name
    second.close()
    first.close()


def test_the_name_is_taken_up_after_an_end(tmp_path: Path) -> None:
    first = Ownership(tmp_path, {"gateway"})
    first.close()
    again = Ownership(tmp_path, {"gateway"})
    assert again.name == first.name
    again.close()


def test_other_services_have_another_name(tmp_path: Path) -> None:
    gateway, bridge = Ownership(tmp_path, {"gateway"}), Ownership(tmp_path, {"bridge"})
    assert gateway.name != bridge.name
    gateway.close()
    bridge.close()


def test_a_killed_process_leaves_its_name_at_once(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", HOLD, str(tmp_path)], capture_output=True, text=True, check=False
    )
    heir = Ownership(tmp_path, {"gateway"})
    assert heir.name == killed.stdout.strip()
    heir.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnwritable):
        Ownership(tmp_path / "file" / "under", {"gateway"})
