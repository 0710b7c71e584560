"""A language model on this machine, for real where its file is present."""

import asyncio
import os
from pathlib import Path

import pytest

pytest.importorskip("pydantic_ai")

import httpx2

from angarium.agents.kinds.llm import LLM
from angarium.agents.llm.local import LocalServer
from angarium.agents.turns import Patience
from angarium.errors import Misconfigured
from angarium.testing.agents import AgentWorld

PATIENT = Patience(first_event_s=100, turn_s=100)


def start(place):
    async def scenario():
        server = LocalServer(place)
        async with httpx2.AsyncClient() as client:
            try:
                await server.model(client)
            finally:
                await server.close()

    asyncio.run(scenario())


def test_a_model_file_that_does_not_exist_is_named_with_what_to_do(tmp_path):
    with pytest.raises(Misconfigured, match="angarium model"):
        start(f"local:{tmp_path}/none.gguf")


def test_without_its_package_a_local_model_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("angarium.agents.llm.local.find_spec", lambda name: None)
    with pytest.raises(Misconfigured, match=r"angarium\[local\]"):
        start(f"local:{tmp_path}/tiny.gguf")


@pytest.mark.slow
@pytest.mark.process
def test_a_file_that_is_no_model_ends_with_a_sentence_and_no_process(tmp_path):
    pytest.importorskip("xllamacpp")
    (tmp_path / "tiny.gguf").write_bytes(b"this is not a model")
    with pytest.raises(Misconfigured, match="check that it is a GGUF file"):
        start(f"local:{tmp_path}/tiny.gguf")


@pytest.mark.slow
@pytest.mark.process
def test_a_local_model_answers_a_person():
    place = os.environ.get("ANGARIUM_LOCAL_MODEL", "")
    if not Path(place).is_file():
        pytest.skip("set ANGARIUM_LOCAL_MODEL to a GGUF file; `angarium model` fetches one")
    llm = LLM("small", "answers", model=f"local:{place}", prompt="Answer in one sentence.")

    async def scenario():
        async with AgentWorld([llm], patience=PATIENT) as world:
            (answer,) = await world.say("Name three fruits.")
            assert any(fruit in answer.lower() for fruit in ("apple", "banana", "orange"))
        await llm.close()

    asyncio.run(scenario())
