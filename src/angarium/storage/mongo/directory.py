"""Public keys of users and devices over MongoDB.

A change of a device is written first and the list version raised after it; a reader takes the
version first and the devices after it. So a version is never paired with older devices, only,
for a moment, with newer ones.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from bson import ObjectId
from pymongo import InsertOne, ReturnDocument
from pymongo.errors import BulkWriteError

from angarium.errors import Forbidden, Unavailable
from angarium.ids import DeviceId, UserId
from angarium.limits import APPEND_ATTEMPTS
from angarium.model.device import Device, DeviceList, IdentityKeys
from angarium.storage.mongo.faults import AlreadyThere, verdict_of_code
from angarium.storage.mongo.link import Document, Link

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class MongoDirectory:
    """See storage.contract.Directory.

    A removed device leaves its name and owner behind, because an id never changes its user.
    """

    link: Link

    async def put_device(self, device: Device) -> int:
        keys = fingerprint(device.keys)
        place = {"_id": device.id, "user": device.user, "fingerprint": {"$in": [keys, None]}}
        change = {
            "$set": {
                "user": device.user, "kind": device.kind, "keys": _encode(device.keys),
                "fingerprint": keys, "signed": device.signed, "created_ms": device.created_ms,
                "leaving": False,
            },
            "$setOnInsert": {"made": ObjectId()},
        }  # fmt: skip
        try:
            await self.link.call(
                lambda: self.link["devices"].update_one(place, change, upsert=True)
            )
        except AlreadyThere:
            await self._explain(device)
        return await self._raise_version(device.user)

    async def _explain(self, device: Device) -> None:
        """Raise what is wrong with a device that is stored otherwise."""
        found = await self.link.find("devices", {"_id": device.id})
        if found is not None and found["user"] != device.user:
            raise Forbidden("this device id belongs to another user")
        if found is None or found["fingerprint"] in (None, fingerprint(device.keys)):
            raise Unavailable("the device was changed at the same time", after_ms=200)
        raise Forbidden("the identity keys of a device never change; use a new device id")

    async def put_identity(self, identity: IdentityKeys) -> int:
        return await self._raise_version(
            identity.user,
            {
                "master": _encode(identity.master),
                "self_signing": _encode(identity.self_signing),
            },
        )

    async def find_device(self, device: DeviceId) -> Device | None:
        found = await self.link.find("devices", {"_id": device, "keys": {"$ne": None}})
        return None if found is None else _device(found)

    async def lists(self, users: Sequence[UserId]) -> dict[UserId, DeviceList]:
        names = list(set(users))
        lists = await self.link.list("device_lists", {"_id": {"$in": names}})
        devices: dict[str, list[Device]] = {}
        for found in await self.link.list(
            "devices", {"user": {"$in": names}, "keys": {"$ne": None}}, sort=[("made", 1)]
        ):
            devices.setdefault(found["user"], []).append(_device(found))
        return {
            each["_id"]: DeviceList(
                each["_id"],
                each["version"],
                _identity(each),
                tuple(devices.get(each["_id"], ())),
            )
            for each in lists
        }

    async def remove_device(self, user: UserId, device: DeviceId) -> int:
        found = await self.link.find("devices", {"_id": device, "user": user})
        if found is None or (found["keys"] is None and not found["leaving"]):
            return await self._version(user)
        # `leaving` stays until the version is raised, so that a repeated call completes it.
        await self._change_device(
            device,
            {"keys": None, "fingerprint": None, "signed": False, "leaving": True},
        )
        await self.link.call(lambda: self.link["one_time_keys"].delete_many({"device": device}))
        await self.link.call(lambda: self.link["fallback_keys"].delete_one({"_id": device}))
        version = await self._raise_version(user)
        await self._change_device(device, {"leaving": False})
        return version

    async def _change_device(self, device: DeviceId, fields: Document) -> None:
        await self.link.call(
            lambda: self.link["devices"].update_one({"_id": device}, {"$set": fields})
        )

    # --- prekeys ---

    async def put_one_time_keys(
        self, device: DeviceId, keys: Mapping[str, dict[str, Any]]
    ) -> int:
        rows = [
            {
                "_id": ObjectId(),
                "device": device,
                "key_id": name,
                "key": _encode(key),
                "made": ObjectId(),
            }
            for name, key in keys.items()
        ]

        async def insert() -> None:
            try:
                await self.link["one_time_keys"].bulk_write(
                    [InsertOne(row) for row in rows], ordered=False
                )
            except BulkWriteError as error:
                failed = error.details["writeErrors"]
                other = [each for each in failed if verdict_of_code(each["code"]) != "taken"]
                if other or error.details.get("writeConcernErrors"):
                    raise BulkWriteError({**error.details, "writeErrors": other}) from None

        if rows:
            await self.link.call(insert)
        return await self.count_one_time_keys(device)

    async def put_fallback_key(
        self, device: DeviceId, key_id: str, key: dict[str, Any]
    ) -> None:
        change = {"$set": {"key_id": key_id, "key": _encode(key)}}
        for _ in range(2):  # Two first keys at once: the second finds the document.
            try:
                await self.link.call(
                    lambda: self.link["fallback_keys"].update_one(
                        {"_id": device}, change, upsert=True
                    )
                )
            except AlreadyThere:
                continue
            return
        raise Unavailable("the fallback key was not stored", after_ms=200)

    async def count_one_time_keys(self, device: DeviceId) -> int:
        return await self.link.call(
            lambda: self.link["one_time_keys"].count_documents({"device": device})
        )

    async def take_key(
        self, device: DeviceId, fallback_only: bool = False
    ) -> tuple[str, dict[str, Any]] | None:
        found = None
        if not fallback_only:
            # Removing and returning is one atomic step. When its answer is lost the key is
            # gone without an owner: never handed out is safe, handed out twice is not.
            found = await self.link.call(
                lambda: self.link["one_time_keys"].find_one_and_delete(
                    {"device": device}, sort=[("made", 1)]
                )
            )
        if found is None:
            found = await self.link.find("fallback_keys", {"_id": device})
        return None if found is None else (found["key_id"], _decode(found["key"]))

    # --- versions ---

    async def _version(self, user: UserId) -> int:
        found = await self.link.find("device_lists", {"_id": user})
        return int(found["version"]) if found else 0

    async def _raise_version(self, user: UserId, fields: Document | None = None) -> int:
        """Count one change. The document is made by an insert, never by an upsert that counts:
        engines differ in what two of those at once return."""
        change: Document = {"$inc": {"version": 1}}
        if fields:
            change["$set"] = fields
        for _ in range(APPEND_ATTEMPTS):
            found = await self.link.call(
                lambda: self.link["device_lists"].find_one_and_update(
                    {"_id": user}, change, return_document=ReturnDocument.AFTER
                )
            )
            if found is not None:
                return int(found["version"])
            if await self.link.insert(
                "device_lists", {"_id": user, "version": 1, **(fields or {})}
            ):
                return 1
        raise Unavailable("the list version was not raised", after_ms=200)


def fingerprint(keys: Mapping[str, Any]) -> bytes:
    """What of a device must never change, as a hash."""
    identity = msgspec.json.encode(keys.get("keys"), order="sorted")
    return hashlib.sha256(identity).digest()


def _device(found: Document) -> Device:
    return Device(
        found["user"], found["_id"], found["kind"], _decode(found["keys"]),
        bool(found["signed"]), found["created_ms"],
    )  # fmt: skip


def _identity(found: Document) -> IdentityKeys | None:
    if found.get("master") is None:
        return None
    return IdentityKeys(found["_id"], _decode(found["master"]), _decode(found["self_signing"]))
