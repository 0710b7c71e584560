"""Encrypted attachments over HTTP: opened, uploaded and fetched in chunks, resumable."""

from typing import Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from angarium.clock import Clock
from angarium.errors import Forbidden, Malformed, NotFound, TooLarge
from angarium.ids import ConversationId, UserId, check_uuid
from angarium.limits import BLOB_BYTES_MAX, BLOB_CHUNK_BYTES, BLOB_KEPT_S
from angarium.server.guard import Guard, caller
from angarium.storage.contract import Blob, Blobs, Conversations

Json = dict[str, Any]
INDEX = Path(ge=0, le=BLOB_BYTES_MAX // BLOB_CHUNK_BYTES)


class NewBlob(BaseModel):
    """A file of `size` ciphertext bytes in `chunks` parts, all but the last one full."""

    id: str
    conversation: str
    size: int = Field(ge=1)
    chunks: int = Field(ge=1)


class BlobRoutes:
    """Doors to attachments, open to the participants of their conversation."""

    def __init__(
        self, *, blobs: Blobs, conversations: Conversations, clock: Clock, guard: Guard
    ) -> None:
        self._blobs, self._conversations = blobs, conversations
        self._clock, self._guard = clock, guard

    def router(self) -> APIRouter:
        router = self._guard.router("attachments")
        root = "/v1/blobs/{id}"
        router.add_api_route("/v1/blobs", self.open, methods=["POST"])
        router.add_api_route(root, self.show, methods=["GET"])
        router.add_api_route(root + "/chunks/{index}", self.put_chunk, methods=["PUT"])
        router.add_api_route(
            root + "/chunks/{index}", self.read_chunk, methods=["GET"], response_class=Response
        )
        return router

    async def open(self, request: Request, body: NewBlob) -> Json:
        """Begin an upload, or see how far one has come."""
        user = caller(request).user
        if body.size > BLOB_BYTES_MAX:
            raise TooLarge(f"an attachment has at most {BLOB_BYTES_MAX} bytes")
        if body.chunks != -(-body.size // BLOB_CHUNK_BYTES):
            raise Malformed(f"all chunks but the last have {BLOB_CHUNK_BYTES} bytes")
        conversation = ConversationId(check_uuid(body.conversation))
        await self._check_member(conversation, user)
        now_ms = self._clock.now_ms()
        blob = Blob(
            id=check_uuid(body.id),
            owner=user,
            conversation=conversation,
            size=body.size,
            chunks=body.chunks,
            stored=(),
            complete=False,
            created_ms=now_ms,
            expires_ms=now_ms + BLOB_KEPT_S * 1000,
        )
        return shape_of(await self._blobs.open(blob))

    async def show(self, request: Request, id: str) -> Json:
        """Which chunks are stored."""
        return shape_of(await self._visible(request, id))

    async def put_chunk(self, request: Request, id: str, index: int = INDEX) -> Json:
        """Store one chunk (raw bytes); the same again changes nothing."""
        blob = await self._visible(request, id)
        if blob.owner != caller(request).user:
            raise Forbidden("only who began the upload goes on with it")
        chunk = await request.body()
        if len(chunk) > BLOB_CHUNK_BYTES:
            raise TooLarge(f"a chunk has at most {BLOB_CHUNK_BYTES} bytes")
        return shape_of(await self._blobs.put_chunk(blob.id, index, chunk))

    async def read_chunk(self, request: Request, id: str, index: int = INDEX) -> Response:
        """One stored chunk."""
        blob = await self._visible(request, id)
        chunk = await self._blobs.read_chunk(blob.id, index)
        return Response(chunk, media_type="application/octet-stream")

    async def _visible(self, request: Request, id: str) -> Blob:
        blob = await self._blobs.find(check_uuid(id))
        if blob is None:
            raise NotFound("there is no such attachment")
        await self._check_member(blob.conversation, caller(request).user)
        return blob

    async def _check_member(self, conversation: ConversationId, user: UserId) -> None:
        found = await self._conversations.find(conversation)
        if found is None or not found.has(user):
            raise NotFound("you take part in no such conversation")


def shape_of(blob: Blob) -> Json:
    """An upload as clients see it."""
    return {
        "id": blob.id,
        "conversation": blob.conversation,
        "size": blob.size,
        "chunks": blob.chunks,
        "stored": list(blob.stored),
        "complete": blob.complete,
        "expires_ms": blob.expires_ms,
    }
