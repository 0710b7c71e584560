"""Public keys over HTTP, in the Matrix shapes."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from angarium.errors import AngariumError, Forbidden
from angarium.keys.directory import KEY_ALGORITHM, Keys
from angarium.limits import ONE_TIME_KEYS_STORED_MAX, USERS_PER_QUERY_MAX
from angarium.model.device import DeviceKind
from angarium.server.audit import AuditTrail
from angarium.server.guard import Guard, caller
from angarium.server.roles import Roles

Json = dict[str, Any]


class KeysUpload(BaseModel):
    """A device's self-signed keys (absent when only prekeys are topped up) and its prekeys."""

    model_config = ConfigDict(extra="ignore")
    device_keys: Json | None = None
    one_time_keys: Json = Field(default={}, max_length=ONE_TIME_KEYS_STORED_MAX)
    fallback_keys: Json = Field(default={}, max_length=2)
    kind: DeviceKind | None = None
    device: str = ""


class SigningUpload(BaseModel):
    """A user's master key and the self-signing key it signed."""

    master_key: Json
    self_signing_key: Json


class KeysQuery(BaseModel):
    """Whose device lists to fetch."""

    users: list[str] = Field(max_length=USERS_PER_QUERY_MAX)


class KeysClaim(BaseModel):
    """{user: {device: "signed_curve25519"}}."""

    one_time_keys: dict[str, dict[str, str]] = Field(max_length=USERS_PER_QUERY_MAX)


class KeyRoutes:
    """Doors of the keys service."""

    def __init__(self, *, keys: Keys, roles: Roles, audit: AuditTrail, guard: Guard) -> None:
        self._keys, self._roles, self._audit, self._guard = keys, roles, audit, guard

    def router(self) -> APIRouter:
        router = self._guard.router("keys")
        post, get = ["POST"], ["GET"]
        for path, door, methods in (
            ("/v1/keys/upload", self.upload, post),
            ("/v1/keys/signing/upload", self.upload_signing, post),
            ("/v1/keys/signatures/upload", self.upload_signatures, post),
            ("/v1/keys/query", self.query, post),
            ("/v1/keys/claim", self.claim, post),
            ("/v1/keys/count", self.count, get),
            ("/v1/devices/{device}", self.remove_device, ["DELETE"]),
        ):
            router.add_api_route(path, door, methods=methods)
        return router

    async def upload(self, request: Request, body: KeysUpload) -> Json:
        """Publish a device and its prekeys; a new or changed device is audited."""
        user = caller(request).user
        if body.kind in ("gateway", "bridge") and self._roles.of(user) == "person":
            raise Forbidden("a person's device is of kind web or sdk")
        target = str((body.device_keys or {}).get("device_id", body.device))[:32]
        try:
            uploaded = await self._keys.upload(
                user,
                device_keys=body.device_keys,
                one_time_keys=body.one_time_keys,
                fallback_keys=body.fallback_keys,
                kind=body.kind,
                device=body.device,
            )
        except AngariumError as error:
            await self._audit.record(user, "device.publish", target, error.code)
            raise
        if uploaded.changed:  # Topping up prekeys is no grant.
            await self._audit.record(user, "device.publish", target, "done")
        return {
            "one_time_key_counts": {KEY_ALGORITHM: uploaded.one_time_keys},
            "signed": uploaded.signed,
        }

    async def upload_signing(self, request: Request, body: SigningUpload) -> Json:
        """Publish cross-signing keys. Replacing a master key needs the scope `identity`."""
        principal = caller(request)
        async with self._audit.command(principal.user, "identity.publish", principal.user):
            await self._keys.upload_identity(
                principal.user,
                body.master_key,
                body.self_signing_key,
                may_replace="identity" in principal.scopes,
            )
        return {}

    async def upload_signatures(
        self, request: Request, body: dict[str, dict[str, Json]]
    ) -> Json:
        """Add the self-signing key's signature to one's own devices: {user: {device: keys}}."""
        user = caller(request).user
        named = sorted(name[:32] for devices in body.values() for name in devices)[:16]
        async with self._audit.command(user, "device.sign", ",".join(named)):
            await self._keys.upload_signatures(user, body)
        return {}

    async def query(self, request: Request, body: KeysQuery) -> Json:
        """Device lists of any users: starting a conversation needs them. Rate limited."""
        return await self._keys.query(caller(request).user, body.users)

    async def claim(self, request: Request, body: KeysClaim) -> Json:
        """One prekey of each device named, each one-time key to one claimer only."""
        return {
            "one_time_keys": await self._keys.claim(caller(request).user, body.one_time_keys)
        }

    async def count(self, request: Request, device: str) -> dict[str, int]:
        """One-time keys left of one's own device."""
        return {KEY_ALGORITHM: await self._keys.count(caller(request).user, device)}

    async def remove_device(self, request: Request, device: str) -> Json:
        """Forget one's own device and its keys."""
        user = caller(request).user
        async with self._audit.command(user, "device.remove", device[:32]):
            await self._keys.remove_device(user, device)
        return {}
