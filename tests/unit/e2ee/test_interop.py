"""A recorded conversation with another implementation opens here."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from angarium.clock import ManualClock
from angarium.e2ee.olm import OlmEngine
from angarium.e2ee.wire import OlmCiphertext
from angarium.errors import EnvelopeMismatch, Replayed

RECORDED = Path(__file__).parents[2] / "fixtures" / "e2ee" / "olmmachine.json"


@pytest.fixture
def recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text())  # type: ignore[no-any-return]


@pytest.fixture
def engine(recorded: dict[str, Any]) -> OlmEngine:
    records = {key: base64.b64decode(value) for key, value in recorded["records"].items()}
    engine = OlmEngine.load(recorded["user"], recorded["device"], records, clock=ManualClock())
    engine.learn(recorded["lists"])
    return engine


def test_a_browsers_device_is_trusted(recorded: dict[str, Any], engine: OlmEngine) -> None:
    assert [d.id for d in engine.devices([recorded["sender"]])] == [recorded["sender_device"]]


def test_a_browsers_messages_open_in_any_order_and_once(
    recorded: dict[str, Any], engine: OlmEngine
) -> None:
    own = engine.device_keys()["keys"][f"curve25519:{engine.device}"]
    for at in (1, 2, 0):
        message = recorded["messages"][at]
        ciphertext = OlmCiphertext.from_matrix(message["content"], own).pack()
        opened = engine.unseal(recorded["sender"], recorded["sender_device"], ciphertext)

        assert opened.decode() == message["text"]
        with pytest.raises(Replayed):
            engine.unseal(recorded["sender"], recorded["sender_device"], ciphertext)


def test_a_browsers_message_under_another_name_is_a_mismatch(
    recorded: dict[str, Any], engine: OlmEngine
) -> None:
    own = engine.device_keys()["keys"][f"curve25519:{engine.device}"]
    content = recorded["messages"][0]["content"]
    content["sender_key"] = own

    with pytest.raises(EnvelopeMismatch):
        engine.unseal(
            recorded["sender"],
            recorded["sender_device"],
            OlmCiphertext.from_matrix(content, own).pack(),
        )
