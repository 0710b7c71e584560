"""`route`: how long it takes to find the agent for a message, and how often it is right.

`cached_*` is a whole decision that was taken before: remembered in this process, and remembered
by another node in a real Redis. `uncached_*` are messages never seen, through the model, among
2,500 examples of ten agents. The times of `uncached_*` include the wait for the model's thread.

With `--data FOLDER` (CLINC150), and with `--examples` and `--eval`, see `route_accuracy`.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import product
from pathlib import Path

from angarium.agents.declared import Routing
from angarium.agents.registry import Registry
from angarium.agents.routing.cache import RouteCache
from angarium.agents.routing.classifier import Classifier
from angarium.agents.routing.make import make_worker
from angarium.agents.routing.router import Router
from angarium.agents.routing.rules import Facts
from angarium.agents.routing.worker import EmbedWorker
from angarium.bus.redis_cache import RedisCache
from angarium.bus.redis_link import open_link
from angarium.clock import SystemClock
from angarium.errors import Misconfigured, Unavailable
from angarium.testing.bench import BenchOptions, percentile
from angarium.testing.bench.route_agents import agents_of
from angarium.testing.redis_server import RedisServer

SECRET = b"only for this benchmark"
EXAMPLES_PER_AGENT = 250
HITS_MAX = 100_000
THINGS = (
    "parcel", "invoice", "flight", "hotel room", "bank card", "dentist", "recipe", "playlist",
    "electric car", "rent contract",
)  # fmt: skip
SAID = (
    ("where is", "i lost", "please cancel", "how much is", "i want to change", "tell me about"),
    ("my", "the", "our", "this", "that new"),
    ("", "please", "today", "from last week", "as soon as possible", "before friday", "again",
     "for my wife", "for two people", "near the station"),
)  # fmt: skip


async def measure(options: BenchOptions) -> dict[str, float | None]:
    """cached_*_us, cached_redis_*_ms, uncached_*_ms; and the accuracies that were asked for."""
    async with AsyncExitStack() as parts:
        worker = make_worker(Routing(embedder="minilm"))
        if worker is None:
            raise Misconfigured("no routing model")
        parts.push_async_callback(worker.close)
        figures = await _times(options, worker)
        if options.data or options.examples or options.evaluate:
            from angarium.testing.bench import route_accuracy

            figures |= await route_accuracy.measure(options, worker)
    return figures


async def _times(options: BenchOptions, worker: EmbedWorker) -> dict[str, float | None]:
    said = [list(_sayings(thing)) for thing in THINGS]
    count = EXAMPLES_PER_AGENT if options.seconds >= 1 else EXAMPLES_PER_AGENT // 10
    examples = {f"agent{n}": texts[:count] for n, texts in enumerate(said)}
    unseen = [text for texts in said for text in texts[EXAMPLES_PER_AGENT:]]
    registry, classifier = Registry(agents_of(examples)), Classifier(worker)
    options.progress("reading examples", 0.0)
    router = Router(registry, examples=classifier, cache=RouteCache(SECRET, SystemClock()))
    try:
        await router.open(wait_s=None)
        options.progress("uncached", 0.4)
        uncached = await _decide(router, unseen, options.seconds / 2)
        options.progress("cached", 0.6)
        cached = await _decide(router, unseen[:1] * HITS_MAX, options.seconds / 4)
        options.progress("cached in Redis", 0.8)
        redis = await _through_redis(options, registry, classifier, unseen)
    finally:
        await router.close()
    return {
        "cached_p50_us": percentile(cached, 0.5) * 1000,
        "cached_p99_us": percentile(cached, 0.99) * 1000,
        "cached_redis_p50_ms": percentile(redis, 0.5) if redis else None,
        "cached_redis_p99_ms": percentile(redis, 0.99) if redis else None,
        "uncached_p50_ms": percentile(uncached, 0.5),
        "uncached_p95_ms": percentile(uncached, 0.95),
        "uncached_p99_ms": percentile(uncached, 0.99),
    }


async def _decide(router: Router, texts: Sequence[str], seconds: float) -> list[float]:
    """Milliseconds of each decision, one after the other, for at most `seconds`."""
    facts, times, end_s = Facts(), [], time.perf_counter() + seconds
    for text in texts:
        began_s = time.perf_counter()
        await router.decide(text, facts)
        now_s = time.perf_counter()
        times.append((now_s - began_s) * 1000)
        if now_s > end_s:
            break
    return times


async def _through_redis(
    options: BenchOptions, registry: Registry, classifier: Classifier, texts: Sequence[str]
) -> list[float]:
    """Of decisions that another node has taken. Empty, with a note, without a server."""
    with tempfile.TemporaryDirectory(prefix="angarium-bench-") as folder:
        try:
            server = RedisServer(Path(folder))
            await server.start()
        except Unavailable as error:
            options.notes.append(f"cached_redis_*_ms: {error}")
            return []
        link = open_link(server.url)
        try:
            shared = RedisCache(link, SystemClock())
            one, other = (
                Router(
                    registry,
                    examples=classifier,
                    cache=RouteCache(SECRET, SystemClock(), shared),
                )
                for _ in range(2)
            )
            known = len(await _decide(one, texts, options.seconds / 2))
            times = await _decide(other, texts[:known], options.seconds)
            if shared.figures()["hits"] < len(times):
                raise Unavailable("Redis has not kept the decisions of this benchmark")
            return times
        finally:
            await link.close()
            server.kill()


def _sayings(thing: str) -> Iterator[str]:
    for begin, whose, end in product(*SAID):
        yield " ".join(f"{begin} {whose} {thing} {end}".split())
