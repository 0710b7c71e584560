"""A running node answers OpenAI's own client."""

import openai
import pytest

from angarium.errors import Forbidden
from angarium.server.auth import mint_token
from angarium.testing.process import ServedNode
from angarium.testing.rawclient import RawClient

from .nodes import Run, get

pytestmark = pytest.mark.process


def client(node: ServedNode, *scopes: str) -> openai.AsyncOpenAI:
    token = mint_token(node.folder, "@ada:angarium", scopes)
    return openai.AsyncOpenAI(base_url=f"{node.http_url}/v1", api_key=token, max_retries=0)


def test_the_client_lists_asks_streams_and_goes_on(run: Run, node: ServedNode) -> None:
    async def scenario() -> None:
        async with client(node, "agents") as asking:
            assert [model.id async for model in asking.models.list()] == ["angarium", "echo"]
            stream = await asking.chat.completions.create(
                model="angarium", messages=[{"role": "user", "content": "hi"}], stream=True
            )
            said = [chunk.choices[0].delta.content or "" async for chunk in stream]
            assert "".join(said) == "echo hi"
            first = await asking.responses.create(model="echo", input="one")
            second = await asking.responses.create(
                model="echo", input="two", previous_response_id=first.id
            )
            assert (first.output_text, second.output_text) == ("echo one", "echo two")
            with pytest.raises(openai.NotFoundError):
                await asking.responses.create(model="nobody", input="hi")

    run(scenario())


def test_a_key_that_may_only_ask_agents_opens_nothing_else(run: Run, node: ServedNode) -> None:
    token = mint_token(node.folder, "@ada:angarium", ("agents",))

    async def scenario() -> None:
        answered = await get(
            node, "/v1/conversations", headers={"authorization": f"Bearer {token}"}
        )
        assert answered.status_code == 403
        assert answered.json()["error"]["code"] == Forbidden.code
        connecting = await RawClient.connect(
            node.websocket_url, "ADADEVICE", token, wait_live=False
        )
        await connecting.closed.wait()
        assert connecting.close_code == Forbidden.close_code

    run(scenario())
