import asyncio

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from angarium.agents.routing.cache import RouteCache
from angarium.agents.routing.rules import Verdict
from angarium.bus.cache import LocalCache
from angarium.clock import ManualClock
from angarium.limits import ROUTE_CACHE_KEY_S, ROUTE_CACHE_S

VERDICT = Verdict("orders", 'nearest "where is my parcel" 0.83', 0.83)


class Spy(LocalCache):
    def __init__(self, clock):
        super().__init__(clock)
        self.seen = []

    async def put(self, key, value, ttl_s):
        self.seen.append((key, value, ttl_s))
        await super().put(key, value, ttl_s)


def make(shared=None, secret=b"s" * 32):
    clock = ManualClock()
    return RouteCache(secret, clock, shared), clock


def test_a_decision_is_found_again_for_the_same_words_in_the_same_situation():
    cache, _ = make()
    key = cache.key("v1", "orders", "app", "Where is it?")
    asyncio.run(cache.put(key, VERDICT))

    assert cache.peek(cache.key("v1", "orders", "app", "where is IT")) == VERDICT


def test_another_registry_agent_channel_text_or_secret_is_another_key():
    cache, _ = make()
    other, _ = make(secret=b"t" * 32)
    keys = {
        cache.key("v1", "a", "app", "x"),
        cache.key("v2", "a", "app", "x"),
        cache.key("v1", "b", "app", "x"),
        cache.key("v1", "a", "whatsapp", "x"),
        cache.key("v1", "a", "app", "y"),
        other.key("v1", "a", "app", "x"),
    }

    assert len(keys) == 6


def test_the_key_changes_with_the_day_and_is_the_same_on_every_node():
    cache, clock = make()
    first = cache.key("v1", "a", "app", "x")
    twin, _ = make()
    assert twin.key("v1", "a", "app", "x") == first

    clock.advance(ROUTE_CACHE_KEY_S)

    assert cache.key("v1", "a", "app", "x") != first


@given(st.text(min_size=4))
def test_nothing_that_is_kept_holds_the_text(text):
    async def scenario():
        clock = ManualClock()
        shared = Spy(clock)
        cache = RouteCache(b"s" * 32, clock, shared)
        key = cache.key("v1", "a", "app", text)
        await cache.put(key, VERDICT)
        ((seen, value, ttl_s),) = shared.seen
        assert len(seen) == 32
        assert text.encode("utf-8", "surrogatepass") not in seen
        assert msgspec.msgpack.decode(value, type=Verdict) == VERDICT
        assert ttl_s == ROUTE_CACHE_S

    asyncio.run(scenario())


def test_it_is_forgotten_after_its_time():
    cache, clock = make()
    key = cache.key("v1", "a", "app", "x")
    asyncio.run(cache.put(key, VERDICT))

    clock.advance(ROUTE_CACHE_S + 1)

    assert cache.peek(key) is None


def test_what_another_node_decided_is_found_and_then_known_here():
    async def scenario():
        clock = ManualClock()
        shared = LocalCache(clock)
        one, other = (RouteCache(b"s" * 32, clock, shared) for _ in range(2))
        key = one.key("v1", "a", "app", "x")
        await one.put(key, VERDICT)
        assert other.peek(key) is None
        assert await other.get(key) == VERDICT
        assert other.peek(key) == VERDICT

    asyncio.run(scenario())


def test_a_value_of_another_version_counts_as_none():
    async def scenario():
        clock = ManualClock()
        shared = LocalCache(clock)
        cache = RouteCache(b"s" * 32, clock, shared)
        key = cache.key("v1", "a", "app", "x")
        await shared.put(key, b"\x93\x01\x02\x03", 60)
        assert await cache.get(key) is None

    asyncio.run(scenario())
