"""The guards of the cluster, named so that a test can take one away and then must fail."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guards:
    """FOR TESTS ONLY. Which safety checks a store keeps; every product store keeps all.

    A fault suite that still passes with one of them off proves nothing, so it switches each off
    in turn and must find the damage. No setting and no command reaches this class.
    """

    unique_sequence: bool = True
    unique_key: bool = True
    unique_counter: bool = True
    predecessor: bool = True
    majority: bool = True
    fencing: bool = True
    late_writes: bool = True


ALL_GUARDS = Guards()
