"""What Kubernetes objects say about agents. Pure: objects in, facts out; garbage is a fact."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from angarium.agents.discovery.kube_api import Object
from angarium.limits import (
    AGENT_CARD_BYTES_MAX,
    AGENT_DESCRIPTION_CHARS_MAX,
    AGENT_EXAMPLE_CHARS_MAX,
    AGENT_EXAMPLES_MAX,
    AGENT_SKILLS_MAX,
    INSTANCES_MAX,
)

PREFIX = "angarium.dev/"
KINDS = ("a2a", "cloudevents", "openai")
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FoundSkill:
    """A skill as its card says it."""

    name: str
    examples: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an agent runs; `cold`: at zero, it would have to start first."""

    url: str
    cold: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """One agent that the cluster runs. `problem` says why it cannot be used."""

    name: str
    kind: str
    origin: str  # Namespace and name of its service.
    description: str = ""
    skills: tuple[FoundSkill, ...] = ()
    channels: tuple[str, ...] = ()
    path: str = ""
    model: str = ""
    scales_to_zero: bool = False
    spots: tuple[Spot, ...] = ()
    hosts: tuple[str, ...] = ()  # Other names that its card may give for the same service.
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Knative:
    """A Knative service: an agent, and the revision that says how many of it run."""

    agent: Found
    revision: str


@dataclass(frozen=True, slots=True)
class Plain:
    """A service of Kubernetes itself; its endpoints are the instances."""

    agent: Found
    port: str
    address: str


@dataclass(frozen=True, slots=True)
class Slice:
    """Some endpoints of a service."""

    service: str
    ports: tuple[tuple[str, int], ...]
    ready: tuple[str, ...]


def read_knative(service: Object) -> Knative | None:
    """None while it is not ready, or is going away."""
    status = _dict(service.get("status"))
    ready = [
        each.get("status")
        for each in _dicts(status.get("conditions"))
        if each.get("type") == "Ready"
    ]
    address = _dict(status.get("address")).get("url")
    if ready != ["True"] or not isinstance(address, str) or _is_leaving(service):
        return None
    agent = replace(_read_agent(service), scales_to_zero=True, spots=(Spot(address),))
    if not _is_http(address):
        agent = replace(agent, problem="status.address.url is no http URL")
    public = status.get("url")
    hosts = (public,) if isinstance(public, str) and _is_http(public) else ()
    revision = status.get("latestReadyRevisionName")
    return Knative(replace(agent, hosts=hosts), revision if isinstance(revision, str) else "")


def read_revision(revision: Object) -> int | None:
    """How many of it run; None: not known."""
    count = _dict(revision.get("status")).get("actualReplicas")
    return count if isinstance(count, int) else None


def read_service(service: Object) -> Plain | None:
    """None for one that Knative made for its own purposes, or that is going away."""
    metadata = _dict(service.get("metadata"))
    labels = _dict(metadata.get("labels"))
    if any(str(label).startswith("serving.knative.dev/") for label in labels):
        return None
    if _is_leaving(service):
        return None
    ports = _dicts(_dict(service.get("spec")).get("ports"))
    wanted = _said(service, "port")
    chosen = _choose_port(ports, wanted)
    agent = _read_agent(service)
    number = chosen.get("port")
    if not isinstance(number, int):
        return Plain(replace(agent, problem="it has no such port"), "", "")
    name = str(chosen.get("name") or "")
    host = f"{metadata.get('name')}.{metadata.get('namespace')}.svc"
    return Plain(agent, name, f"http://{host}:{number}")


def read_slice(found: Object) -> Slice | None:
    """Its ready endpoints; those that end are not, whatever else they say."""
    labels = _dict(_dict(found.get("metadata")).get("labels"))
    service = labels.get("kubernetes.io/service-name")
    if not isinstance(service, str):
        return None
    ports = tuple(
        (str(each.get("name") or ""), each["port"])
        for each in _dicts(found.get("ports"))
        if isinstance(each.get("port"), int)
    )
    ready = []
    for endpoint in _dicts(found.get("endpoints")):
        conditions = _dict(endpoint.get("conditions"))
        addresses = endpoint.get("addresses")
        # No word on readiness is to be read as ready.
        if conditions.get("ready") is not False and not conditions.get("terminating"):
            ready += [each for each in addresses or () if isinstance(each, str)][:1]
    return Slice(service, ports, tuple(ready))


def with_warmth(service: Knative, replicas: int | None) -> Found:
    """The agent, knowing whether it would have to start."""
    spots = tuple(replace(spot, cold=replicas == 0) for spot in service.agent.spots)
    return replace(service.agent, spots=spots)


def with_instances(service: Plain, slices: Iterable[Slice]) -> Found | None:
    """The agent at its ready endpoints; None when none is ready. Without any slice the
    service's own address is the one instance."""
    slices = list(slices)
    if service.agent.problem:
        return service.agent
    if not slices:
        return replace(service.agent, spots=(Spot(service.address),))
    urls = {
        f"http://{_host(address)}:{number}"
        for each in slices
        for name, number in each.ports
        if name == service.port
        for address in each.ready
    }
    if not urls:
        return None
    spots = tuple(Spot(url) for url in sorted(urls)[:INSTANCES_MAX])
    return replace(service.agent, spots=spots, hosts=(service.address,))


def _read_agent(service: Object) -> Found:
    metadata = _dict(service.get("metadata"))
    name, namespace = str(metadata.get("name")), str(metadata.get("namespace") or "")
    kind = _said(service, "kind") or "a2a"
    found = Found(
        name=_said(service, "name") or name,
        kind=kind,
        origin=f"{namespace}/{name}",
        description=_said(service, "description")[:AGENT_DESCRIPTION_CHARS_MAX],
        channels=_words(_said(service, "channels")),
        path=_said(service, "path"),
        model=_said(service, "model"),
    )
    if kind not in KINDS:
        return replace(found, problem=f"{PREFIX}kind is one of {', '.join(KINDS)}")
    examples = _lines(_said(service, "examples"))
    if examples:
        found = replace(found, skills=(FoundSkill("", examples),))
    card = _said(service, "card")
    return _with_card(found, card) if card else found


def _with_card(found: Found, text: str) -> Found:
    """Name and kind are the operator's to say, the rest is the card's."""
    if len(text.encode(errors="replace")) > AGENT_CARD_BYTES_MAX:
        return replace(found, problem=f"{PREFIX}card is too large")
    try:
        card = json.loads(text)
    except (ValueError, RecursionError):
        return replace(found, problem=f"{PREFIX}card is no JSON")
    if not isinstance(card, dict):
        return replace(found, problem=f"{PREFIX}card is no JSON object")
    described = card.get("description")
    if not found.description and isinstance(described, str):
        found = replace(found, description=described[:AGENT_DESCRIPTION_CHARS_MAX])
    skills = tuple(map(_skill, _dicts(card.get("skills"))[:AGENT_SKILLS_MAX]))
    return replace(found, skills=(*found.skills, *skills))


def _skill(said: Json) -> FoundSkill:
    name = said.get("name") or said.get("id") or ""
    description = said.get("description") or ""
    examples = said.get("examples")
    kept = [each for each in examples if isinstance(each, str)] if examples else []
    return FoundSkill(
        str(name)[:AGENT_EXAMPLE_CHARS_MAX],
        tuple(each[:AGENT_EXAMPLE_CHARS_MAX] for each in kept[:AGENT_EXAMPLES_MAX]),
        str(description)[:AGENT_DESCRIPTION_CHARS_MAX],
    )


def _choose_port(ports: list[Json], wanted: str) -> Json:
    if wanted:
        fits = [each for each in ports if wanted in (each.get("name"), str(each.get("port")))]
    else:
        fits = [each for each in ports if str(each.get("name") or "").startswith("http")]
        fits += ports
    return fits[0] if fits else {}


def _said(service: Object, name: str) -> str:
    annotations = _dict(_dict(service.get("metadata")).get("annotations"))
    value = annotations.get(PREFIX + name, "")
    return value.strip() if isinstance(value, str) else ""


def _is_leaving(found: Object) -> bool:
    return bool(_dict(found.get("metadata")).get("deletionTimestamp"))


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _lines(text: str) -> tuple[str, ...]:
    lines = (line.strip() for line in text.splitlines())
    kept = [line[:AGENT_EXAMPLE_CHARS_MAX] for line in lines if line]
    return tuple(kept[:AGENT_EXAMPLES_MAX])


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
