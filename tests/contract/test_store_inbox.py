import asyncio
from typing import Any

import pytest

from angarium.errors import Forbidden, Malformed, NotFound, Refused, TooLarge
from angarium.limits import (
    BLOB_BYTES_COUNTED_MIN,
    BLOB_BYTES_MAX,
    BLOB_BYTES_PER_USER_MAX,
    BLOB_CHUNK_BYTES,
    BLOB_UPLOAD_OPEN_S,
    BLOBS_OPEN_PER_USER_MAX,
    COMMAND_KEY_KEPT_S,
)
from angarium.storage.contract import AuditEntry, Blob

# --- webhooks ---


def test_a_webhook_is_stored_once_per_channel_and_event(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        stores = [opened.store, opened.other] * 3
        answers = await asyncio.gather(
            *(store.webhooks.put("twilio", "e-1", b"raw", 5) for store in stores)
        )
        assert sorted(answers) == [False] * 5 + [True]
        assert await opened.store.webhooks.put("meta", "e-1", b"raw", 5)
        (entry,) = await opened.store.webhooks.list_open("twilio", 10)
        assert (entry.channel, entry.event, entry.raw, entry.received_ms, entry.attempts) == (
            "twilio", "e-1", b"raw", 5, 0,
        )  # fmt: skip

    with_store(scenario)


def test_open_webhooks_come_oldest_first_until_done_or_given_up(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        inbox = opened.store.webhooks
        for n in range(4):
            await inbox.put("twilio", f"e-{n}", b"raw", n)
        first, second, third, _ = await inbox.list_open("twilio", 10)
        await inbox.finish(first.id, "done")
        await inbox.fail(second.id, "odd", give_up=True)
        await inbox.fail(third.id, "later", give_up=False)
        left = await inbox.list_open("twilio", 10)
        assert [(entry.event, entry.attempts) for entry in left] == [("e-2", 1), ("e-3", 0)]
        assert [entry.event for entry in await inbox.list_open("twilio", 1)] == ["e-2"]
        (dead,) = await inbox.list_dead(10)
        assert (dead.event, dead.raw, dead.attempts) == ("e-1", b"raw", 1)

    with_store(scenario)


def test_a_finished_webhook_is_still_known_until_it_is_forgotten(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        inbox = opened.store.webhooks
        for n in range(3):
            await inbox.put("twilio", f"e-{n}", b"raw", n)
        for entry in (await inbox.list_open("twilio", 10))[:2]:
            await inbox.finish(entry.id, "done")
        assert not await inbox.put("twilio", "e-0", b"raw", 9)
        assert await inbox.forget(1) == 1
        assert await inbox.forget(99) == 1
        assert await inbox.put("twilio", "e-0", b"raw", 9)
        assert not await inbox.put("twilio", "e-2", b"raw", 9)

    with_store(scenario)


# --- audit ---


def test_the_audit_trail_is_read_newest_first_in_pages(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        for n in range(5):
            await opened.store.audit.append(
                AuditEntry(n, "operator", "invite", f"t{n}", "done", {"n": n})
            )
        page = await opened.other.audit.list(2)
        assert [(e.at_ms, e.target, e.detail) for e in page] == [
            (4, "t4", {"n": 4}),
            (3, "t3", {"n": 3}),
        ]
        rest = await opened.other.audit.list(9, before_id=page[-1].id)
        assert [entry.at_ms for entry in rest] == [2, 1, 0]

    with_store(scenario)


# --- commands ---


def test_the_first_answer_of_a_command_counts_for_a_day(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        commands, day_ms = opened.store.commands, COMMAND_KEY_KEPT_S * 1000
        assert await commands.find("invite", "k", 0) is None
        assert await commands.remember("invite", "k", b"first", 0) == b"first"
        assert await opened.other.commands.remember("invite", "k", b"second", 5) == b"first"
        assert await commands.find("invite", "k", day_ms - 1) == b"first"
        assert await commands.find("upload", "k", 5) is None
        assert await commands.find("invite", "k", day_ms) is None
        assert await commands.remember("invite", "k", b"third", day_ms) == b"third"

    with_store(scenario)


def test_of_two_runs_at_once_one_answer_counts(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        answers = await asyncio.gather(
            *(
                store.commands.remember("s", "k", str(n).encode(), 0)
                for n, store in enumerate([opened.store, opened.other] * 3)
            )
        )
        assert len(set(answers)) == 1

    with_store(scenario)


# --- attachments ---


def blob(size: int = 10, chunks: int = 2, **changes: Any) -> Blob:
    fields: dict[str, Any] = {
        "id": "b-1", "owner": "@anna:angarium", "conversation": "c-1", "size": size,
        "chunks": chunks, "stored": (), "complete": False, "created_ms": 0,
        "expires_ms": 10**12,
    }  # fmt: skip
    return Blob(**(fields | changes))


def test_an_attachment_is_complete_when_every_chunk_is_stored(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        blobs = opened.store.blobs
        assert await blobs.open(blob()) == blob()
        half = await blobs.put_chunk("b-1", 1, b"56789")
        assert (half.stored, half.complete) == ((1,), False)
        assert (await blobs.put_chunk("b-1", 1, b"56789")).stored == (1,)
        resumed = await opened.other.blobs.open(blob())
        assert resumed.stored == (1,)
        whole = await opened.other.blobs.put_chunk("b-1", 0, b"01234")
        assert (whole.stored, whole.complete) == ((0, 1), True)
        assert await blobs.find("b-1") == whole
        assert [await blobs.read_chunk("b-1", n) for n in (0, 1)] == [b"01234", b"56789"]

    with_store(scenario)


@pytest.mark.parametrize(
    ("index", "chunk", "error"),
    [
        (2, b"01234", Malformed),
        (-1, b"01234", Malformed),
        (0, b"", Malformed),
        (0, b"0123456789", Malformed),
        (0, b"x" * (BLOB_CHUNK_BYTES + 1), TooLarge),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused(
    with_store: Any, index: int, chunk: bytes, error: type[Exception]
) -> None:
    async def scenario(opened: Any) -> None:
        await opened.store.blobs.open(blob())
        with pytest.raises(error):
            await opened.store.blobs.put_chunk("b-1", index, chunk)
        assert (await opened.store.blobs.find("b-1")).stored == ()

    with_store(scenario)


def test_the_last_chunk_makes_up_the_size_exactly(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await opened.store.blobs.open(blob())
        await opened.store.blobs.put_chunk("b-1", 0, b"01234")
        with pytest.raises(Malformed):
            await opened.store.blobs.put_chunk("b-1", 1, b"5678")
        assert (await opened.store.blobs.put_chunk("b-1", 1, b"56789")).complete

    with_store(scenario)


def test_a_stored_chunk_never_changes(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await opened.store.blobs.open(blob())
        await opened.store.blobs.put_chunk("b-1", 0, b"01234")
        with pytest.raises(Malformed):
            await opened.other.blobs.put_chunk("b-1", 0, b"abcde")
        assert await opened.store.blobs.read_chunk("b-1", 0) == b"01234"

    with_store(scenario)


def test_an_attachment_that_is_too_large_or_odd_is_not_begun(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        blobs = opened.store.blobs
        with pytest.raises(TooLarge):
            await blobs.open(blob(BLOB_BYTES_MAX + 1, 65))
        for size, chunks in ((10, 0), (10, 11), (BLOB_CHUNK_BYTES + 1, 1), (-1, 0)):
            with pytest.raises(Malformed):
                await blobs.open(blob(size, chunks))
        assert await blobs.find("b-1") is None

    with_store(scenario)


def test_an_id_of_another_owner_is_forbidden(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await opened.store.blobs.open(blob())
        with pytest.raises(Forbidden):
            await opened.store.blobs.open(blob(owner="@ben:angarium"))

    with_store(scenario)


def test_what_is_not_there_is_not_found(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        blobs = opened.store.blobs
        await blobs.open(blob())
        with pytest.raises(NotFound):
            await blobs.put_chunk("missing", 0, b"x")
        with pytest.raises(NotFound):
            await blobs.read_chunk("b-1", 0)
        await blobs.put_chunk("b-1", 0, b"01234")
        await blobs.drop("b-1")
        await blobs.drop("b-1")
        assert await blobs.find("b-1") is None
        with pytest.raises(NotFound):
            await blobs.read_chunk("b-1", 0)

    with_store(scenario)


def test_expired_attachments_and_abandoned_uploads_are_dropped(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        blobs, day_ms = opened.store.blobs, BLOB_UPLOAD_OPEN_S * 1000
        await blobs.open(blob(id="old", size=1, chunks=1, expires_ms=50))
        await blobs.put_chunk("old", 0, b"x")
        await blobs.open(blob(id="abandoned"))
        await blobs.open(blob(id="kept", size=1, chunks=1))
        await blobs.put_chunk("kept", 0, b"x")
        assert await blobs.expire(49) == 0
        assert await blobs.expire(50) == 1
        assert await blobs.expire(day_ms - 1) == 0
        assert await blobs.expire(day_ms) == 1
        assert [await blobs.find(n) for n in ("old", "abandoned")] == [None, None]
        assert await blobs.read_chunk("kept", 0) == b"x"

    with_store(scenario)


def test_a_user_has_so_many_uploads_open_and_no_more(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        async def open_one(number: int, store: Any, **changes: Any) -> bool:
            try:
                await store.blobs.open(blob(id=f"b-{number}", chunks=1, **changes))
            except Refused:
                return False
            return True

        stores = [opened.store, opened.other]
        tries = range(BLOBS_OPEN_PER_USER_MAX + 4)
        taken = await asyncio.gather(*(open_one(n, stores[n % 2]) for n in tries))
        assert sum(taken) == BLOBS_OPEN_PER_USER_MAX
        first = taken.index(True)
        assert await open_one(first, opened.store)  # Known: how far has it come?
        assert await open_one(900, opened.store, owner="@bob:angarium")
        assert not await open_one(901, opened.store)
        await opened.store.blobs.put_chunk(f"b-{first}", 0, b"0123456789")
        assert await open_one(902, opened.other)

    with_store(scenario)


def test_the_bytes_of_a_user_are_bounded_and_small_ones_count_too(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        blobs = opened.store.blobs

        async def open_one(number: int, size: int, **changes: Any) -> Blob:
            chunks = -(-size // BLOB_CHUNK_BYTES)
            found = await blobs.open(
                blob(size, chunks, id=f"b-{number}", expires_ms=5000, **changes)
            )
            assert isinstance(found, Blob)
            return found

        whole = BLOB_BYTES_PER_USER_MAX // BLOB_BYTES_MAX
        for number in range(whole - 1):
            await open_one(number, BLOB_BYTES_MAX)
        await open_one(100, BLOB_BYTES_MAX - BLOB_BYTES_COUNTED_MIN)
        with pytest.raises(Refused):
            await open_one(101, BLOB_BYTES_COUNTED_MIN + 1)
        await open_one(102, 1)
        with pytest.raises(Refused):
            await open_one(103, 1, created_ms=4999)
        await open_one(104, 1, created_ms=5000)  # What has expired counts no more.

    with_store(scenario)
