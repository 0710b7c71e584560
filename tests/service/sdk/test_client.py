"""What a person's client keeps and shows."""

import asyncio
from pathlib import Path

import pytest

from angarium.cli.chat import EXIT_DONE, EXIT_FAILED, EXIT_NO_ANSWER, chat, say_once
from angarium.cli.screen import printable
from angarium.e2ee.body import Body
from angarium.errors import RateLimited, Replayed, TokenExpired, Unavailable
from angarium.ids import ConversationId, DeviceId, MessageKey, UserId
from angarium.kms.sealer import DataKeySealer
from angarium.sdk.api import error_of
from angarium.sdk.client import Client, Conversation
from angarium.sdk.contract import Happened, Received
from angarium.sdk.history import History
from angarium.storage.sqlite.store import open_sqlite

from .relay_in_memory import CLOCK

C = ConversationId("019a1b2c-0000-7000-8000-000000000001")


def received(sequence: int, text: str, own: bool = False, problem: str = "") -> Received:
    key, user, device = MessageKey(f"k{sequence}"), UserId("@ann:test"), DeviceId("DEVICE1")
    body = Body(text=text)
    return Received(C, sequence, key, user, device, 0, body, own=own, problem=problem)


def test_history_is_kept_sealed_and_in_order() -> None:
    async def scenario() -> None:
        sqlite = await open_sqlite(None, CLOCK, inline=True)
        vault = sqlite.store.vault
        history = History(vault, DataKeySealer(bytes(32)), DeviceId("DEVICE1"))
        for sequence in (2, 1, 10):
            await vault.write(history.plan(received(sequence, f"canary {sequence}")))
        again = received(2, "", problem=Replayed.code)
        assert history.plan(again) == []
        kept = await history.read(C)
        assert [(r.sequence, r.body.text) for r in kept] == [
            (1, "canary 1"),
            (2, "canary 2"),
            (10, "canary 10"),
        ]
        records = await vault.read("history/DEVICE1")
        assert not any(b"canary" in record.blob for record in records)
        await sqlite.close()

    asyncio.run(scenario())


class Echo:
    """The endpoint's side of a conversation, answering as told."""

    def __init__(self, history: History, answers: list[Received]) -> None:
        self._history, self._answers = history, answers

    async def submit(self, conversation: ConversationId, body: Body, key: None) -> MessageKey:
        self._history.committed(received(1, body.text, own=True))
        part = Happened(conversation, "part", UserId("@ann:test"), body=Body(text="par"))
        self._history.happened(part)
        for answer in self._answers:
            self._history.committed(answer)
        return MessageKey("k1")

    async def sent(self, key: MessageKey) -> None:
        return None


def conversation_with(folder: Path, answers: list[Received]) -> Conversation:
    client = Client("http://127.0.0.1:9", user="@me:test", token="t", folder=folder)
    client.kept = History(None, DataKeySealer(bytes(32)), DeviceId("D"))  # type: ignore[arg-type]
    client.endpoint = Echo(client.kept, answers)  # type: ignore[assignment]
    client.api = None  # type: ignore[assignment]
    return client.conversation(C)


def test_one_question_prints_the_answers_of_others_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("angarium.cli.chat.QUIET_S", 0.01)
    written: list[str] = []
    conversation = conversation_with(tmp_path, [received(2, "one"), received(3, "two")])
    code = asyncio.run(say_once(conversation, "hi", 5.0, written.append))
    assert (code, written) == (EXIT_DONE, ["one", "two"])


def test_no_answer_in_time_is_an_error_with_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = asyncio.run(say_once(conversation_with(tmp_path, []), "hi", 0.01))
    assert code == EXIT_NO_ANSWER
    assert capsys.readouterr().err.startswith("no_answer:")


def test_an_answer_that_does_not_open_is_an_error_with_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = received(2, "", problem="undecryptable")
    code = asyncio.run(say_once(conversation_with(tmp_path, [bad]), "hi", 1.0))
    assert code == EXIT_FAILED
    assert capsys.readouterr().err.startswith("undecryptable:")


def test_chat_without_a_server_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = chat(
        url="http://127.0.0.1:9", user="@me:test", token="t", folder=tmp_path, say="hello"
    )
    assert code == EXIT_FAILED
    assert capsys.readouterr().err.startswith("error[unavailable]:")


def test_what_others_write_cannot_move_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\td\u202e") == "a[2Jb\nc\td"


def test_errors_of_the_api_come_back_as_their_class() -> None:
    limited = error_of(429, b'{"error":{"code":"rate_limited","message":"m","after_ms":250}}')
    assert isinstance(limited, RateLimited)
    assert limited.after_ms == 250
    expired = error_of(401, b'{"error":{"code":"token_expired","message":"m"}}')
    assert isinstance(expired, TokenExpired)
    assert isinstance(error_of(502, b"<html>"), Unavailable)
    assert error_of(418, b'{"error":{"code":"of_the_future","message":"m"}}').code == "internal"
