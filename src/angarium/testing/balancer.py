"""A load balancer of tests: one address before many nodes, each connection to a ready one.

Like the real ones it may send somebody to a node that died a moment ago; who asks then is cut
off and asks again. Its network can be made bad, as that of any FaultProxy.
"""

import random
from collections.abc import Callable, Sequence

from angarium.testing.faults import FaultProxy

_NOWHERE = ("127.0.0.1", 1)  # Nobody listens there: the connection is refused.


class Balancer(FaultProxy):
    """`ports()` are those of the nodes that may be chosen now, on this machine."""

    def __init__(self, ports: Callable[[], Sequence[int]]) -> None:
        super().__init__(*_NOWHERE)
        self._ports = ports

    def place(self) -> tuple[str, int]:
        ports = self._ports()
        return ("127.0.0.1", random.choice(ports)) if ports else _NOWHERE  # noqa: S311
