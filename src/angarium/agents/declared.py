"""What a developer declares beside the agents: how to route, and what to try."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from angarium.agents.contract import AgentKind

Embedder = Literal["auto", "minilm", "multilingual", "none"]
Judge = Callable[[str, Sequence[AgentKind]], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Routing:
    """How messages find their agent. `auto` is `minilm` where it is installed, else `none`:
    then mentions, the agent that has the conversation and the default decide alone."""

    embedder: Embedder = "auto"
    fallback: str = ""  # Answers what nobody's examples are near to; empty: the default agent.
    switch_nearest: float = 0.60  # Another agent takes over at this cosine of its best example
    switch_margin: float = 0.30  # ... and when it is so much likelier than the one that has it.
    oos_keep: float = (
        0.95  # Share of fitting messages that the out-of-scope bound lets through.
    )
    model_path: str = ""  # A model of one's own, instead of the package's.
    languages: tuple[str, ...] = ()  # To tell apart, as ISO 639-1 codes; empty: not told.
    judge: Judge | None = None  # Names an agent for a message that fits nobody's examples.


@dataclass(frozen=True, slots=True)
class EvalCase:
    """A dialogue that `angarium eval` tries: the messages, who must answer the last one, and
    what its answer must contain."""

    say: tuple[str, ...]
    agent: str = ""
    contains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """Find agents among the Knative services, or the plain ones, of a Kubernetes cluster.

    Inside a pod nothing but `selector` need be said: where the API is, its certificate and the
    token come from the pod's service account.
    """

    selector: str = "angarium.dev/agent=true"
    namespace: str = ""  # Empty: all namespaces; the token must allow that.
    kinds: tuple[Literal["knative", "service"], ...] = ("knative", "service")
    mode: Literal["watch"] = "watch"
    url: str = ""  # Of the API, outside a pod: `kubectl proxy` gives one.
    token_file: str = ""
    ca_file: str = ""


@dataclass(frozen=True, slots=True)
class Declared:
    """All of one module or file."""

    agents: Sequence[AgentKind]
    routing: Routing = Routing()
    evals: tuple[EvalCase, ...] = ()
    discovery: tuple[Kubernetes, ...] = ()
