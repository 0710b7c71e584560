"""A real node finds an agent in a cluster, talks to it, and shows operators where it runs."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from angarium.sdk.client import Client
from angarium.server.auth import mint_token
from angarium.server.http import HttpServer
from angarium.testing.kubernetes import FakeKubernetes, endpoint_slice, plain_service
from angarium.testing.process import ServedNode

pytestmark = [pytest.mark.slow, pytest.mark.process]


def receiver(says: str) -> FastAPI:
    """An agent behind an OpenAI-compatible service."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await request.json()
        delta = {"index": 0, "delta": {"content": says}, "finish_reason": None}
        chunk = {"id": "1", "object": "chat.completion.chunk", "model": "m", "choices": [delta]}
        end = chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        if not asked.get("stream"):
            return JSONResponse({"error": {"message": "stream"}}, 400)
        lines = [f"data: {json.dumps(each)}\n\n" for each in (chunk, end)]
        return Response("".join([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")

    return app


def test_an_agent_of_the_cluster_answers_from_where_it_runs_now(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two = (HttpServer(receiver(says), "127.0.0.1", 0) for says in ("one", "two"))
        async with FakeKubernetes() as kube, AsyncExitStack() as parts:
            for server in (one, two):
                await server.start()
                parts.push_async_callback(server.stop)
            service = plain_service("billing", kind="openai", model="m", description="Bills")
            kube.put(kube.SERVICES, service)
            kube.put(kube.SLICES, endpoint_slice("billing", one.port, "127.0.0.1"))
            agents = tmp_path / "agents.toml"
            agents.write_text(f'[discovery.kubernetes]\nurl = "{kube.url}"\n')
            async with ServedNode(tmp_path / "data", settings={"agents": str(agents)}) as node:
                await talk(node, kube, one.port, two.port)

    async def talk(node: ServedNode, kube: FakeKubernetes, before: int, after: int) -> None:
        token = mint_token(node.folder, "@ada:angarium")
        folder = tmp_path / "ada"
        async with Client(
            node.http_url, user="@ada:angarium", token=token, folder=folder
        ) as ada:
            talk = await ada.converse(ada.gateway)
            answers = talk.answers()
            await talk.send("hello")
            assert (await anext(answers)).text == "one"

            kube.put(kube.SLICES, endpoint_slice("billing", after, "127.0.0.1"))
            await asyncio.sleep(1.0)  # Within a second it is known.
            await talk.send("hello")
            assert (await anext(answers)).text == "two"
        assert before != after
        await look(node, f"http://127.0.0.1:{after}")

    async def look(node: ServedNode, url: str) -> None:
        admin = mint_token(node.folder, "@op:angarium", ["admin"])
        async with httpx2.AsyncClient(base_url=node.http_url, trust_env=False) as http:
            plain = mint_token(node.folder, "@op:angarium")
            for token, status in (("", 401), (plain, 403), (admin, 200)):
                headers = {"authorization": f"Bearer {token}"} if token else {}
                shown = await http.get("/v1/admin/agents", headers=headers)
                assert shown.status_code == status
        (agent,) = shown.json()["agents"]
        assert (agent["name"], agent["kind"], agent["state"]) == (
            "billing",
            "openai",
            "warm",
        )
        assert [each["url"] for each in agent["instances"]] == [url]
        assert await node.metric("discovery_found") == 1

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())
