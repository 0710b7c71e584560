"""The discovery that agents were declared with, on what a node has."""

from collections.abc import Mapping
from pathlib import Path

from angarium.agents.declared import Kubernetes
from angarium.agents.discovery.kube_api import ACCOUNT, KubeApi, token_reader
from angarium.agents.discovery.kubernetes import KubernetesDiscovery
from angarium.agents.discovery.shared import SharedSnapshot
from angarium.agents.registry import Registry
from angarium.bus.cache import Cache
from angarium.clock import Clock
from angarium.errors import Misconfigured
from angarium.kms.contract import Sealer


def open_discovery(
    registry: Registry,
    clock: Clock,
    sealer: Sealer,
    cache: Cache | None,
    environ: Mapping[str, str],
    account: Path = ACCOUNT,
) -> list[KubernetesDiscovery]:
    """One for each that the registry's agents were declared with. Raises Misconfigured."""
    return [
        KubernetesDiscovery(
            declared,
            _api(declared, environ, account),
            registry,
            clock,
            shared=SharedSnapshot(cache, sealer, clock, _source(number)) if cache else None,
            source=_source(number),
        )
        for number, declared in enumerate(registry.declared.discovery, 1)
    ]


def _source(number: int) -> str:
    return f"kubernetes {number}"


def _api(declared: Kubernetes, environ: Mapping[str, str], account: Path) -> KubeApi:
    token_file = Path(declared.token_file) if declared.token_file else account / "token"
    if declared.url:
        # What belongs to this pod's cluster is nobody else's to see.
        token = token_reader(token_file) if declared.token_file else lambda: ""
        return KubeApi(declared.url, token=token, ca_file=declared.ca_file)
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    if not host:
        raise Misconfigured(
            "[discovery.kubernetes]: this is no pod; set url, to that of `kubectl proxy` say"
        )
    place = f"[{host}]" if ":" in host else host
    url = f"https://{place}:{environ.get('KUBERNETES_SERVICE_PORT', '443')}"
    return KubeApi(
        url, token=token_reader(token_file), ca_file=declared.ca_file or str(account / "ca.crt")
    )
