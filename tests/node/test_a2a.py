"""The A2A SDK's client and a real node, which dies in between."""

import httpx
import pytest
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types import GetTaskRequest, Message, Part, Role, SendMessageRequest, TaskState

from angarium.server.auth import mint_token
from angarium.testing.process import ServedNode

from .nodes import Run

pytestmark = [pytest.mark.slow, pytest.mark.process]
BINDINGS = ("JSONRPC", "HTTP+JSON")


async def talk(node: ServedNode, binding: str, text: str) -> tuple[str, str]:
    """The task and what was said."""
    token = mint_token(node.folder, "@ada:angarium", ("agents",))
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
        card = await A2ACardResolver(http, f"{node.http_url}/agents/echo").get_agent_card()
        config = ClientConfig(httpx_client=http, supported_protocol_bindings=[binding])
        client = ClientFactory(config).create(card)
        message = Message(
            message_id=f"m-{binding}", role=Role.ROLE_USER, parts=[Part(text=text)]
        )
        said, task = "", ""
        async for response in client.send_message(SendMessageRequest(message=message)):
            if response.HasField("artifact_update"):
                task = response.artifact_update.task_id
                said += "".join(part.text for part in response.artifact_update.artifact.parts)
        return task, said


async def found(node: ServedNode, task: str) -> tuple[int, str]:
    """The state of the task and what was said, as the node tells it now."""
    token = mint_token(node.folder, "@ada:angarium", ("agents",))
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
        card = await A2ACardResolver(http, f"{node.http_url}/agents/echo").get_agent_card()
        client = ClientFactory(ClientConfig(httpx_client=http)).create(card)
        told = await client.get_task(GetTaskRequest(id=task))
        return told.status.state, "".join(part.text for part in told.artifacts[0].parts)


def test_a_task_is_answered_and_found_again_after_the_node_was_killed(
    node: ServedNode, run: Run
) -> None:
    async def scenario() -> None:
        tasks = []
        for binding in BINDINGS:
            task, said = await talk(node, binding, f"over {binding}")
            assert said == f"echo over {binding}"
            tasks.append(task)
        await node.kill()
        await node.start()
        for binding, task in zip(BINDINGS, tasks, strict=True):
            completed = TaskState.TASK_STATE_COMPLETED
            assert await found(node, task) == (completed, f"echo over {binding}")

    run(scenario())
