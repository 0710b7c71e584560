"""`cluster`: what a second and a third node cost, and what a rolling restart is felt as.

Real `angarium serve messaging` processes on MongoDB and Redis: MONGODB_URI and REDIS_URL where
set, else servers of the benchmark's own, SecantusDB and Valkey from the development packages.
These share the machine, and SecantusDB is not made for speed: it limits `per_s_*`, not the
nodes. Light clients in this process keep two messages of every one and conversation on the way.
First one node, then three with the same load; CPU seconds are the nodes' alone, read from the
kernel.

Then a low steady rate while all three nodes are replaced, a new one up before an old one is
told to end. The gap is what a receiver waits after the acknowledgement; offline are clients
without a connection at the worst moment. Figures count only when every invariant holds.
"""

import tempfile
import time
from pathlib import Path

from angarium.errors import Unavailable
from angarium.testing.bench import BenchOptions
from angarium.testing.cluster import Cluster
from angarium.testing.load import Load

CLIENTS = 48
CONVERSATIONS = 48
MEMBERS = 2
IN_FLIGHT = 2
STEADY_PER_S = 40.0
WARM_UP_S = 1.0


async def measure(options: BenchOptions) -> dict[str, float]:
    """per_s_1, per_cpu_s_1, per_s_3, per_cpu_s_3, client_busy_percent, drain_gap_p99_ms,
    offline_at_drain.

    Raises Unavailable without servers, and where an invariant is broken.
    """
    with tempfile.TemporaryDirectory(prefix="angarium-bench-") as name:
        alone = await _measure_nodes(Path(name) / "one", 1, options)
        options.progress("three nodes", 0.4)
        three = await _measure_nodes(Path(name) / "three", 3, options)
    return {**alone, **three}


async def _measure_nodes(folder: Path, nodes: int, options: BenchOptions) -> dict[str, float]:
    async with (
        Cluster(folder, nodes=nodes, settings={"log_level": "warning"}) as cluster,
        Load(cluster, clients=CLIENTS, conversations=CONVERSATIONS, members=MEMBERS) as load,
    ):
        await load.saturate(min(WARM_UP_S, options.seconds), IN_FLIGHT)
        await load.settle()
        figures = await _throughput(cluster, load, options)
        broken = await load.verdict()
        if nodes > 1 and not broken:
            options.progress("replacing all nodes under load", 0.7)
            figures |= await _drain(cluster, load)
            broken = await load.verdict()
        if broken:
            raise Unavailable(f"the run is void: {broken[0]}")
    return figures


async def _throughput(cluster: Cluster, load: Load, options: BenchOptions) -> dict[str, float]:
    nodes = len(cluster.nodes)
    started_s, cpu_s, own_cpu_s = time.monotonic(), cluster.cpu_s(), time.process_time()
    count = await load.saturate(options.seconds, IN_FLIGHT)
    took_s = time.monotonic() - started_s
    figures = {
        f"per_s_{nodes}": count / took_s,
        f"per_cpu_s_{nodes}": count / max(cluster.cpu_s() - cpu_s, 0.01),
        "client_busy_percent": (time.process_time() - own_cpu_s) / took_s * 100,
    }
    await load.settle()
    return figures


async def _drain(cluster: Cluster, load: Load) -> dict[str, float]:
    load.messages_per_s = STEADY_PER_S
    since_s = time.monotonic()
    async with load.sending():
        await cluster.rolling_restart()
    until_s = time.monotonic()
    await load.settle()
    found = load.figures(since_s, until_s)
    return {
        "drain_gap_p99_ms": found["gap_p99_ms"],
        "offline_at_drain": found["offline_max"],
    }
