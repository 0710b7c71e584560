"""The guards of the append, named so that a test can take one away and must then fail."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guards:
    """FOR TESTS ONLY. Which safety checks a store keeps; every product store keeps all.

    A simulation that still passes with one of them off proves nothing, so it switches each off
    in turn and must find the damage. No setting and no command reaches this class.
    """

    unique_sequence: bool = True
    predecessor: bool = True
    fencing: bool = True
    unique_key: bool = True


ALL_GUARDS = Guards()
