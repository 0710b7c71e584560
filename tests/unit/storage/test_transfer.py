import asyncio
from pathlib import Path

import pytest

from angarium.clock import ManualClock
from angarium.errors import UnfinishedCopy
from angarium.limits import COMMAND_KEY_KEPT_S, WEBHOOK_KEPT_S
from angarium.storage.care import backup
from angarium.storage.sqlite.transfer import SqliteTransfer
from angarium.storage.transfer import (
    CommandRow,
    LeaseRow,
    PrekeyRow,
    Progress,
    Row,
    Step,
    Tally,
    WebhookRow,
    decode_progress,
    encode_progress,
)

NOW_MS = 10**13
DAY_MS = 24 * 3600 * 1000


def tally(kind: str, *rows: Row) -> tuple[int, str]:
    counted = Tally(kind, NOW_MS)
    for row in rows:
        counted.add(row)
    return counted.rows, counted.digest


def webhook(state: str, received_ms: int) -> WebhookRow:
    return WebhookRow(1, "twilio", "e", b"", received_ms, 0, state, "")


FIRST, SECOND = PrekeyRow("D", "a", b"1"), PrekeyRow("D", "b", b"2")


def test_every_field_of_a_row_counts() -> None:
    lease = LeaseRow("l", "o", 3, 4)
    others = [
        LeaseRow("m", "o", 3, 4), LeaseRow("l", "p", 3, 4),
        LeaseRow("l", "o", 2, 4), LeaseRow("l", "o", 3, 5),
    ]  # fmt: skip
    assert len({tally("leases", row) for row in (lease, *others)}) == 5


def test_order_counts_where_readers_see_it_and_nowhere_else() -> None:
    assert tally("fallback_keys", FIRST, SECOND) == tally("fallback_keys", SECOND, FIRST)
    assert tally("one_time_keys", FIRST, SECOND) != tally("one_time_keys", SECOND, FIRST)


def test_a_row_twice_and_two_rows_are_not_the_same() -> None:
    assert tally("fallback_keys", FIRST, FIRST) != tally("fallback_keys", FIRST, SECOND)
    assert tally("fallback_keys", FIRST, FIRST) != tally("fallback_keys", FIRST)


def test_what_the_store_is_about_to_drop_is_not_compared() -> None:
    old = CommandRow("s", "k", b"", NOW_MS - COMMAND_KEY_KEPT_S * 1000 + 60_000)
    young = CommandRow("s", "k", b"", NOW_MS - DAY_MS // 2)
    assert tally("commands", old, young) == tally("commands", young)
    assert tally("commands", young)[0] == 1
    lapsing_ms = NOW_MS - WEBHOOK_KEPT_S * 1000 + 60_000
    assert tally("webhooks", webhook("done", lapsing_ms))[0] == 0
    assert tally("webhooks", webhook("dead", lapsing_ms))[0] == 1
    assert tally("webhooks", webhook("done", NOW_MS - DAY_MS))[0] == 1


def test_progress_survives_as_text() -> None:
    progress = Progress(2**62 - 1).moved("messages", Step(7, '["a\\n", 1]', done=True))
    assert decode_progress(encode_progress(progress)) == progress
    assert progress.of("turns") == Step()


def test_a_half_copy_is_not_backed_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        target = SqliteTransfer(tmp_path / "half", ManualClock())
        await target.begin(1)
        await target.close()

    asyncio.run(scenario())
    with pytest.raises(UnfinishedCopy, match="angarium db copy"):
        backup(tmp_path / "half", tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
