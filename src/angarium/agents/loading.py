"""Reads what a developer declared, wherever the setting `agents` says."""

from pathlib import Path

from angarium.agents.declared import Declared
from angarium.agents.python import declared_in, load_module


def load_declared(place: str) -> Declared:
    """What `place` declares: a dotted module name, a Python file or a TOML file.

    Raises Misconfigured.
    """
    if place.endswith(".toml"):
        from angarium.agents.toml import load_toml

        return load_toml(Path(place))
    return declared_in(load_module(place))
