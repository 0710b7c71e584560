import asyncio
from dataclasses import replace
from typing import Any

import pytest

from angarium.errors import Conflict, Fenced, LeaseTaken
from angarium.ids import ConversationId, DeviceId, UserId
from angarium.storage.contract import (
    Delivery,
    DeliveryState,
    DropRecord,
    Fence,
    PutDelivery,
    PutRecord,
    PutTurn,
    Record,
    Turn,
    TurnState,
)

TURN = Turn(
    ConversationId("c-1"), 4, DeviceId("AGENTDEVICE1"), "offered", b"body", "echo", 1, "why",
    b"p", b"r", 5, 6,
)  # fmt: skip
DELIVERY = Delivery(
    id="d-1", channel="twilio", contact=UserId("@c1:angarium"), order=1, state="pending",
    body=b"body", attempts=1, due_ms=10, expires_ms=99, provider_id="", reason="", updated_ms=3,
)  # fmt: skip


# --- records ---


def test_a_record_counts_its_writes(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        vault = opened.store.vault
        for blob in (b"one", b"two", b"three"):
            await vault.write([PutRecord("s", "k", blob)])
        assert await opened.other.vault.read("s") == [Record("s", "k", 3, b"three")]
        await vault.write([DropRecord("s", "k"), DropRecord("s", "missing")])
        assert await vault.read("s") == []

    with_store(scenario)


def test_records_are_read_by_scope_and_prefix_ordered_by_key(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        vault = opened.store.vault
        keys = ["b/2", "b/1", "a/1", "B/1", "b%1", "b", "c"]
        await vault.write([PutRecord("s", key, b"") for key in keys])
        await vault.write([PutRecord("other", "b/9", b"")])
        assert [r.key for r in await vault.read("s", "b/")] == ["b/1", "b/2"]
        assert [r.key for r in await vault.read("s", "b%")] == ["b%1"]
        assert [r.key for r in await vault.read("s")] == sorted(keys)

    with_store(scenario)


@pytest.mark.parametrize(("before", "expected"), [(0, 1), (1, 0), (1, 2), (2, 1)])
def test_a_write_on_another_revision_is_a_conflict(
    with_store: Any, before: int, expected: int
) -> None:
    async def scenario(opened: Any) -> None:
        vault = opened.store.vault
        for _ in range(before):
            await vault.write([PutRecord("s", "k", b"mine")])
        with pytest.raises(Conflict):
            await vault.write([PutRecord("s", "k", b"yours", expected)])
        await vault.write([PutRecord("s", "k", b"ours", before)])
        assert await vault.read("s") == [Record("s", "k", before + 1, b"ours")]

    with_store(scenario)


def test_one_of_many_writers_on_one_revision_wins(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await opened.store.vault.write([PutRecord("s", "k", b"")])
        vaults = [opened.store.vault, opened.other.vault] * 4
        results = await asyncio.gather(
            *(v.write([PutRecord("s", "k", bytes([n]), 1)]) for n, v in enumerate(vaults)),
            return_exceptions=True,
        )
        assert [type(r) for r in results].count(Conflict) == 7
        (record,) = await opened.store.vault.read("s")
        assert record.rev == 2
        assert results[record.blob[0]] is None

    with_store(scenario)


def test_a_late_conflict_spoils_neither_its_neighbours_nor_their_order(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        vault = opened.store.vault
        results = await asyncio.gather(
            vault.write([PutRecord("s", "first", b"")]),
            vault.write([PutRecord("s", "torn", b""), PutRecord("s", "k", b"", 7)]),
            opened.store.webhooks.put("twilio", "e-1", b"raw", 1),
            vault.write([PutRecord("s", "last", b"")]),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [type(None), Conflict, bool, type(None)]
        keys = [record.key for record in await vault.read("s")]
        assert {"first", "last"} <= set(keys)
        assert "k" not in keys

    with_store(scenario)


# --- leases and fences ---


def test_a_lease_is_held_by_one_owner_until_it_lapses(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        mine, theirs = opened.store.leases, opened.other.leases
        fence = await mine.acquire("agents", "a", 10, 1000)
        assert fence == Fence("agents", 1)
        with pytest.raises(LeaseTaken):
            await theirs.acquire("agents", "b", 10, 10_999)
        assert await mine.acquire("agents", "a", 10, 5000) == fence
        with pytest.raises(LeaseTaken):
            await theirs.acquire("agents", "b", 10, 14_999)
        assert (await theirs.acquire("agents", "b", 10, 15_000)).epoch == 2

    with_store(scenario)


def test_a_renewed_lease_lasts_longer_and_a_lost_one_is_fenced(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        leases = opened.store.leases
        fence = await leases.acquire("agents", "a", 10, 0)
        await leases.renew(fence, "a", 10, 9000)
        with pytest.raises(LeaseTaken):
            await leases.acquire("agents", "b", 10, 18_999)
        await leases.acquire("agents", "b", 10, 19_000)
        with pytest.raises(Fenced):
            await leases.renew(fence, "a", 10, 19_001)

    with_store(scenario)


def test_a_released_lease_is_free_at_once_and_its_epoch_grows(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        leases = opened.store.leases
        fence = await leases.acquire("agents", "a", 10, 0)
        await leases.release(fence, "a")
        taken = await opened.other.leases.acquire("agents", "b", 10, 1)
        assert taken.epoch == 2
        await leases.release(fence, "a")
        with pytest.raises(LeaseTaken):
            await leases.acquire("agents", "a", 10, 2)
        with pytest.raises(Fenced):
            await leases.renew(fence, "a", 10, 2)

    with_store(scenario)


def test_an_own_lapsed_lease_comes_back_with_a_new_epoch(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        leases = opened.store.leases
        await leases.acquire("agents", "a", 10, 0)
        assert (await leases.acquire("agents", "a", 10, 10_000)).epoch == 2

    with_store(scenario)


def test_a_lease_seen_without_a_renewal_is_taken_whatever_the_wall_clock_says(
    with_store: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        mine, theirs = opened.store.leases, opened.other.leases
        fence = await mine.acquire("agents", "a", 10, 1_000_000)
        with pytest.raises(LeaseTaken) as seen:
            await theirs.acquire("agents", "b", 10, 1000)
        await mine.renew(fence, "a", 10, 1_005_000)
        with pytest.raises(LeaseTaken) as renewed:
            await theirs.acquire("agents", "b", 10, 1000, seen.value.renewal)
        assert renewed.value.renewal not in ("", seen.value.renewal)
        taken = await theirs.acquire("agents", "b", 10, 1000, renewed.value.renewal)
        assert taken.epoch == fence.epoch + 1
        with pytest.raises(Fenced):
            await mine.renew(fence, "a", 10, 1_006_000)

    with_store(scenario)


def test_a_write_of_an_outdated_owner_is_fenced_and_leaves_nothing(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        old = await opened.store.leases.acquire("agents", "a", 10, 0)
        await opened.store.vault.write([PutRecord("s", "k", b"old")], old)
        new = await opened.other.leases.acquire("agents", "b", 10, 10_000)
        with pytest.raises(Fenced):
            await opened.store.vault.write([PutRecord("s", "k", b"zombie"), PutTurn(TURN)], old)
        with pytest.raises(Fenced):
            await opened.store.vault.write([PutTurn(TURN)], Fence("never", 1))
        await opened.other.vault.write([PutRecord("s", "k", b"new")], new)
        assert await opened.store.vault.read("s") == [Record("s", "k", 2, b"new")]
        assert await opened.store.turns.find("c-1", 4) is None

    with_store(scenario)


# --- turns ---


def test_a_turn_is_found_as_it_was_put_and_replaced(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await opened.store.vault.write([PutTurn(TURN)])
        assert await opened.other.turns.find("c-1", 4) == TURN
        await opened.store.vault.write([PutTurn(replace(TURN, state="replied"))])
        assert (await opened.other.turns.find("c-1", 4)).state == "replied"
        assert await opened.store.turns.find("c-1", 5) is None

    with_store(scenario)


def test_only_new_leaves_an_existing_turn_as_it_is(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        await opened.store.vault.write([PutTurn(TURN, only_new=True)])
        await opened.store.vault.write(
            [PutTurn(replace(TURN, state="failed"), only_new=True), PutRecord("s", "k", b"")]
        )
        assert await opened.store.turns.find("c-1", 4) == TURN
        assert len(await opened.store.vault.read("s")) == 1

    with_store(scenario)


def test_open_turns_are_listed_by_conversation_and_sequence(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        places: list[tuple[str, int, TurnState]] = [
                  ("c-2", 1, "offered"), ("c-1", 9, "running"), ("c-1", 2, "waiting"),
                  ("c-1", 3, "replied"), ("c-3", 1, "failed"), ("c-3", 2, "expired"),
        ]  # fmt: skip
        await opened.store.vault.write(
            [
                PutTurn(replace(TURN, conversation=ConversationId(c), sequence=n, state=state))
                for c, n, state in places
            ]
            + [
                PutTurn(
                    replace(
                        TURN, conversation=ConversationId("c-9"), owner=DeviceId("OTHERDEVICE")
                    )
                )
            ]
        )
        found = await opened.store.turns.list_open("AGENTDEVICE1")
        assert [(t.conversation, t.sequence) for t in found] == [
            ("c-1", 2),
            ("c-1", 9),
            ("c-2", 1),
        ]

    with_store(scenario)


def test_recent_turns_come_newest_first_and_by_state(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        for n in range(1, 6):
            state: TurnState = "failed" if n % 2 else "replied"
            await opened.store.vault.write([PutTurn(replace(TURN, sequence=n, state=state))])
        turns = opened.store.turns
        assert [t.sequence for t in await turns.list_recent(3)] == [5, 4, 3]
        assert [t.sequence for t in await turns.list_recent(9, "failed")] == [5, 3, 1]

    with_store(scenario)


def test_failed_turns_are_buried_by_age_and_count_and_nothing_else_is(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        for n in range(1, 7):
            state: TurnState = "running" if n == 1 else "failed"
            turn = replace(TURN, sequence=n, state=state, updated_ms=100 * n)
            await opened.store.vault.write([PutTurn(turn)])
        turns = opened.store.turns
        assert await turns.bury(0, 10) == 0
        assert await turns.bury(300, 10) == 1  # The second; the first is not failed.
        assert await turns.bury(300, 2) == 2  # The third and fourth.
        assert await turns.bury(300, 2) == 0
        left = {
            t.sequence: (t.body, t.progress) for t in await opened.other.turns.list_recent(9)
        }
        assert [n for n, kept in left.items() if kept == (b"", b"")] == [4, 3, 2]
        buried = await turns.find("c-1", 2)
        assert buried == replace(
            TURN, sequence=2, state="failed", updated_ms=200, body=b"", progress=b""
        )

    with_store(scenario)


# --- deliveries ---


def test_a_delivery_is_found_by_its_id_and_by_the_providers(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        outbox = opened.store.outbox
        await opened.store.vault.write([PutDelivery(DELIVERY)])
        assert await opened.other.outbox.find("d-1") == DELIVERY
        assert await outbox.find_by_provider_id("twilio", "") is None
        sent = replace(DELIVERY, state="sent", provider_id="SM1")
        await opened.store.vault.write([PutDelivery(sent)])
        assert await outbox.find_by_provider_id("twilio", "SM1") == sent
        assert await outbox.find_by_provider_id("other", "SM1") is None
        await opened.store.vault.write([PutDelivery(DELIVERY, only_new=True)])
        assert await outbox.find("d-1") == sent

    with_store(scenario)


def test_one_contact_never_has_two_deliveries_due(with_store: Any) -> None:
    async def scenario(opened: Any) -> None:
        async def put(
            name: str, contact: str, order: int, state: DeliveryState, due_ms: int
        ) -> None:
            await opened.store.vault.write(
                [
                    PutDelivery(
                        replace(
                            DELIVERY,
                            id=name,
                            contact=UserId(contact),
                            order=order,
                            state=state,
                            due_ms=due_ms,
                        )
                    )
                ]
            )

        await put("a2", "@a:x", 2, "pending", 0)
        await put("a1", "@a:x", 1, "sending", 50)
        await put("b2", "@b:x", 2, "pending", 20)
        await put("b1", "@b:x", 1, "sent", 0)
        await put("c1", "@c:x", 1, "unknown", 10)
        await put("c2", "@c:x", 2, "pending", 0)
        due = opened.store.outbox.list_due
        assert [d.id for d in await due("twilio", 5, 9)] == []
        assert [d.id for d in await due("twilio", 20, 9)] == ["c1", "b2"]
        assert [d.id for d in await due("twilio", 50, 9)] == ["c1", "b2", "a1"]
        assert [d.id for d in await due("twilio", 50, 1)] == ["c1"]
        assert await due("other", 50, 9) == []

    with_store(scenario)


def test_deliveries_of_a_contact_come_in_order_and_recent_ones_newest_first(
    with_store: Any,
) -> None:
    async def scenario(opened: Any) -> None:
        for name, order in (("x", 3), ("y", 1), ("z", 2)):
            await opened.store.vault.write(
                [PutDelivery(replace(DELIVERY, id=name, order=order))]
            )
        outbox = opened.store.outbox
        assert [d.id for d in await outbox.list_of("@c1:angarium")] == ["y", "z", "x"]
        assert [d.id for d in await outbox.list_recent(2)] == ["z", "y"]

    with_store(scenario)
