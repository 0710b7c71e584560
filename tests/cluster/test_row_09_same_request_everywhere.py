"""Row 9: the same request ten times at once on three nodes is done once, and says so ten times.

The nodes do not hear each other meanwhile: only the store decides.
"""

import asyncio
import hashlib
import os
import uuid
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from tests.cluster.devices import connect, enrol_pair, make_send

from angarium.clock import SystemClock
from angarium.e2ee.olm import OlmEngine
from angarium.ids import UserId, new_device_id
from angarium.protocol.frames import Ok
from angarium.testing.cluster import Cluster

pytestmark = [pytest.mark.process, pytest.mark.slow]

NODES, TIMES = 3, 10
Json = dict[str, Any]


@pytest.fixture(scope="module")
def nodes(start_cluster: Callable[..., Cluster]) -> Cluster:
    started = start_cluster(nodes=NODES, proxied=["bus"])
    assert started.bus_proxy is not None
    started.bus_proxy.black_hole()
    return started


async def ask(
    nodes: Cluster, user: str, method: str, path: str, times: int = TIMES, **options: Any
) -> list[httpx2.Response]:
    """The same request `times` times at once, in turn to each node."""
    async with httpx2.AsyncClient(
        trust_env=False, timeout=30, headers={"Authorization": f"Bearer {nodes.token(user)}"}
    ) as http:
        urls = [nodes.nodes[n % NODES].http_url + path for n in range(times)]
        headers = options.pop("headers", {})
        return list(
            await asyncio.gather(
                *(http.request(method, url, headers=headers, **options) for url in urls)
            )
        )


def bodies(answers: list[httpx2.Response]) -> list[Json]:
    assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers]
    return [answer.json() for answer in answers]


def test_a_message_sent_ten_times_at_once_is_stored_once(run: Any, nodes: Cluster) -> None:
    async def scenario() -> None:
        c, ((user, device), (_, other)) = await enrol_pair(nodes, "message")
        phones = [await connect(nodes, n, user, device) for n in range(NODES)]

        for cs in range(1, 6):
            key = str(uuid.uuid4())
            for n in range(TIMES):
                phones[n % NODES].client.send([make_send(c, [other], cs, key, 10 * cs + n)])
            answers = [
                answer
                for n, phone in enumerate(phones)
                for answer in (await phone.answers(cs * len(range(n, TIMES, NODES))))
                if answer.id // 10 == cs
            ]
            assert len(answers) == TIMES
            assert all(isinstance(answer, Ok) for answer in answers), answers
            assert {(a.s, a.e) for a in answers if isinstance(a, Ok)} == {(cs, 1)}
            assert len({a.ts for a in answers if isinstance(a, Ok)}) == 1
            assert sum(not a.dup for a in answers if isinstance(a, Ok)) == 1

        async with nodes.open_store() as store:
            log = await store.log.read(c, other, 1, 100, 100)
        assert [(m.sequence, m.cs) for m in log] == [(n, n) for n in range(1, 6)]
        for phone in phones:
            await phone.client.close()

    run(scenario())


@pytest.mark.parametrize("named", ["by key", "by id", "by its people"])
def test_a_conversation_asked_for_ten_times_at_once_is_one(
    run: Any, nodes: Cluster, named: str
) -> None:
    async def scenario() -> None:
        once = named.replace(" ", "-")
        ada, bob = f"@ada-{once}:angarium", f"@bob-{once}:angarium"
        body: Json = {"participants": [bob]}
        if named == "by id":
            body["id"] = str(uuid.uuid4())
        headers = {"Idempotency-Key": "once"} if named == "by key" else {}

        answers = bodies(
            await ask(nodes, ada, "POST", "/v1/conversations", json=body, headers=headers)
        )

        assert all(answer == answers[0] for answer in answers)
        listed = bodies(await ask(nodes, bob, "GET", "/v1/conversations", times=1))
        assert [each["id"] for each in listed[0]["conversations"]] == [answers[0]["id"]]

    run(scenario())


def test_two_people_who_write_to_each_other_at_once_meet_in_one_conversation(
    run: Any, nodes: Cluster
) -> None:
    async def scenario() -> None:
        ada, bob = "@ada-meets:angarium", "@bob-meets:angarium"
        of_ada, of_bob = await asyncio.gather(
            ask(nodes, ada, "POST", "/v1/conversations", json={"participants": [bob]}),
            ask(nodes, bob, "POST", "/v1/conversations", json={"participants": [ada]}),
        )
        assert len({answer["id"] for answer in bodies(of_ada) + bodies(of_bob)}) == 1

    run(scenario())


def test_an_upload_made_ten_times_at_once_is_kept_once(run: Any, nodes: Cluster) -> None:
    async def scenario() -> None:
        c, ((user, _), (reader, _)) = await enrol_pair(nodes, "upload")
        content = os.urandom(200_000)
        id = str(uuid.uuid4())
        blob = {"id": id, "conversation": c, "size": len(content), "chunks": 1}

        opened = bodies(await ask(nodes, user, "POST", "/v1/blobs", json=blob))
        chunk = f"/v1/blobs/{id}/chunks/0"
        stored = bodies(await ask(nodes, user, "PUT", chunk, content=content))
        read = await ask(nodes, reader, "GET", chunk)

        assert len({answer["expires_ms"] for answer in opened + stored}) == 1
        assert all(answer["complete"] for answer in stored)
        digests = {hashlib.sha256(answer.content).digest() for answer in read}
        assert digests == {hashlib.sha256(content).digest()}

    run(scenario())


def test_a_one_time_key_claimed_on_every_node_goes_to_one_claimer(
    run: Any, nodes: Cluster
) -> None:
    async def scenario() -> None:
        owner, device = UserId("@keys:angarium"), new_device_id()
        engine = OlmEngine.create(owner, device, kind="sdk", clock=SystemClock())
        upload = {"device_keys": engine.device_keys(), "kind": "sdk"}
        upload |= engine.make_prekeys(TIMES, fallback=True)
        identity = engine.identity_keys() or {}
        bodies(await ask(nodes, owner, "POST", "/v1/keys/signing/upload", 1, json=identity))
        bodies(await ask(nodes, owner, "POST", "/v1/keys/upload", json=upload))
        wanted = {"one_time_keys": {owner: {device: "signed_curve25519"}}}

        answers = bodies(
            await ask(nodes, "@claimer:angarium", "POST", "/v1/keys/claim", 15, json=wanted)
        )

        keys = [answer["one_time_keys"][owner][device] for answer in answers]
        named = [name for key in keys for name, value in key.items() if "fallback" not in value]
        assert len(named) == TIMES  # All ten, and for the others the fallback key.
        assert len(set(named)) == TIMES

    run(scenario())
