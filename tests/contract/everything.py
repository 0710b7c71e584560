"""A store full of everything that there is, made as nodes make it."""

from typing import Any

from angarium.clock import ManualClock
from angarium.ids import DeviceId, UserId
from angarium.model.conversation import Participant
from angarium.model.device import Device, IdentityKeys
from angarium.model.message import NewMessage
from angarium.storage.contract import (
    AuditEntry,
    Blob,
    Delivery,
    DropRecord,
    PutDelivery,
    PutRecord,
    PutTurn,
    Turn,
)

# As `Any`: names of several kinds are made of them.
ADA: Any = "@ada:x"
BOB: Any = "@bob:x"
TALK: Any = "talk"
GATEWAY: Any = "GATEWAY1"
KEY = "0b6f1d5e-7c0a-4d33-9f0e-2b4f7a9c1d{:02x}"
FAR_MS = 10**14
BLOB = b"first chunk", b"and the second one"


def message(cs: int, conversation: Any = TALK, device: Any = "ADA00001") -> NewMessage:
    """Sealed for two devices, under a UUID or a key of the client's own choice."""
    sender = ADA if device.startswith("ADA") else BOB
    key: Any = KEY.format(cs) if cs % 2 else f"own-{device}-{cs}"
    to: Any = {"BOB00001": bytes([cs]) * 40, "ADA00002": b"\x00\xff" + bytes([cs])}
    return NewMessage(conversation, sender, device, key, cs, "m", to, 0)


async def fill(store: Any, clock: ManualClock) -> None:
    """Put at least one row, and where order matters several, of every kind there."""
    await _conversations(store)
    await _directory(store)
    await _work(store, clock.now_ms())
    await _rest(store, clock.now_ms())


async def _conversations(store: Any) -> None:
    people = [Participant(BOB, "person"), Participant(ADA, "person")]
    for at_ms, name in enumerate(("talk", "a second", "empty"), 5):
        await store.conversations.create(name, people, at_ms)
    await store.conversations.add("a second", Participant(UserId("@aa:x"), "agent"))
    for cs in range(1, 8):
        await store.log.append([message(cs), message(cs, device="BOB00001")])
    await store.log.append([message(cs, "a second") for cs in range(1, 4)])
    await store.log.purge("talk", 3)
    await store.receipts.fold(
        [("talk", ADA, "delivered", 9), ("talk", ADA, "read", 4), ("talk", BOB, "read", 2)]
    )


async def _directory(store: Any) -> None:
    for name in ("ZOE00001", "ADA00001", "ADA00002"):
        keys = {"keys": {"ed25519": name}, "signatures": {}}
        await store.directory.put_device(Device(ADA, DeviceId(name), "sdk", keys, True, 3))
    await store.directory.put_device(
        Device(BOB, DeviceId("BOB00001"), "web", {"keys": {}}, False, 4)
    )
    await store.directory.put_identity(IdentityKeys(ADA, {"m": 1}, {"s": 2}))
    await store.directory.remove_device(ADA, "ZOE00001")
    keys = {name: {"key": name * 4} for name in ("z", "b", "a", "y", "c")}
    await store.directory.put_one_time_keys("ADA00001", keys)
    await store.directory.put_fallback_key("ADA00001", "f", {"key": "fall"})
    assert await store.directory.take_key("ADA00001") == ("z", {"key": "zzzz"})


async def _work(store: Any, now_ms: int) -> None:
    fence = await store.leases.acquire("gateway", "node-1", 10, now_ms)
    await store.leases.release(fence, "node-1")
    fence = await store.leases.acquire("gateway", "node-2", 10, now_ms)
    turns = [Turn(TALK, n, GATEWAY, "running", b"body", "echo", n) for n in (9, 4, 6)]
    deliveries = [
        Delivery(f"d{n}", "twilio", UserId("@wa_1:x"), n, "pending", b"body", due_ms=n)
        for n in (3, 1, 2)
    ]
    await store.vault.write(
        [PutRecord("gateway", f"session/{n}", bytes([n]) * 9) for n in range(4)]
        + [PutRecord("gateway", "session/1", b"later", 1), DropRecord("gateway", "session/2")]
        + [PutTurn(turn) for turn in turns]
        + [PutTurn(Turn(TALK, 1, GATEWAY, "failed", b"", reason="why", trace=b"r"))]
        + [PutDelivery(delivery) for delivery in deliveries]
        + [
            PutDelivery(
                Delivery("d0", "twilio", UserId("@wa_2:x"), 1, "read", b"", provider_id="SM1")
            )
        ],
        fence,
    )
    await store.leases.release(fence, "node-2")


async def _rest(store: Any, now_ms: int) -> None:
    for n in range(4):
        await store.webhooks.put("twilio", f"e{n}", b"raw", now_ms + n)
    first, second, *_ = await store.webhooks.list_open("twilio", 10)
    await store.webhooks.finish(first.id, "done")
    await store.webhooks.fail(second.id, "odd", give_up=True)
    for n in range(3):
        await store.audit.append(AuditEntry(n, "op", "invite", "t", "done", {"n": n}))
    await store.commands.remember("create", "key\nwith a line", b"answer", now_ms)
    size = sum(map(len, BLOB))
    await store.blobs.open(Blob("whole", ADA, TALK, size, 2, (), False, 1, FAR_MS))
    for position, chunk in enumerate(BLOB):
        await store.blobs.put_chunk("whole", position, chunk)
    await store.blobs.open(Blob("begun", ADA, TALK, size, 2, (), False, 1, FAR_MS))
    await store.blobs.put_chunk("begun", 1, BLOB[1])
    await store.blobs.open(Blob("none", BOB, TALK, 5, 1, (), False, 1, FAR_MS))
