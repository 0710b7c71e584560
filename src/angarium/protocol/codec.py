"""Bytes to frames and back: MessagePack (SDKs) and JSON (people and debuggers).

One WebSocket message holds one frame or an array of frames. In JSON, bytes are base64url
without padding. Unknown fields are ignored; an unknown frame type is skipped unless it carries
an `id`, in which case it becomes an `UnknownFrame` that the other side is told about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from angarium.errors import Malformed, TooLarge
from angarium.limits import FRAME_BYTES_MAX, FRAMES_PER_ARRAY_MAX
from angarium.protocol.frames import (
    SUBPROTOCOL_JSON,
    SUBPROTOCOL_MSGPACK,
    AnyFrame,
    ClientFrame,
    ServerFrame,
)

_ARRAY_BYTES = 2 + FRAMES_PER_ARRAY_MAX  # What an array weighs beside its frames, in JSON.


@dataclass(frozen=True, slots=True)
class UnknownFrame:
    """A frame of a later protocol version that expects an answer to `id`."""

    id: int
    type: str


class Codec(Protocol):
    """Both codecs of `angarium.1` keep this contract."""

    subprotocol: str
    binary: bool

    def encode(self, frames: Sequence[AnyFrame]) -> bytes:
        """One WebSocket message for these frames: a lone frame, or an array."""
        ...

    def join(self, encoded: Sequence[bytes]) -> bytes:
        """One WebSocket message from frames that were encoded one by one."""
        ...

    def decode_client(self, payload: bytes) -> list[ClientFrame | UnknownFrame]:
        """Frames a client may send. Raises Malformed or TooLarge; never anything else."""
        ...

    def decode_server(self, payload: bytes) -> list[ServerFrame | UnknownFrame]:
        """Frames a server may send. Raises Malformed or TooLarge; never anything else."""
        ...


class MsgpackCodec:
    """`angarium.1.msgpack`: typed decoding straight into structs."""

    subprotocol, binary = SUBPROTOCOL_MSGPACK, True

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._client = msgspec.msgpack.Decoder(ClientFrame | list[ClientFrame]).decode
        self._server = msgspec.msgpack.Decoder(ServerFrame | list[ServerFrame]).decode
        self._loose = msgspec.msgpack.Decoder().decode

    def encode(self, frames: Sequence[AnyFrame]) -> bytes:
        return self._encode(frames[0] if len(frames) == 1 else frames)

    def join(self, encoded: Sequence[bytes]) -> bytes:
        count = len(encoded)
        if count == 1:
            return encoded[0]
        # MessagePack: an array is its length and then its items, nothing between.
        head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
        return head + b"".join(encoded)

    def decode_client(self, payload: bytes) -> list[ClientFrame | UnknownFrame]:
        check_size(payload)
        try:
            found = self._client(payload)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return frame_by_frame(self._parse(payload), ClientFrame)
        return as_list(found)

    def decode_server(self, payload: bytes) -> list[ServerFrame | UnknownFrame]:
        check_size(payload, FRAME_BYTES_MAX * 2)
        try:
            found = self._server(payload)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return frame_by_frame(self._parse(payload), ServerFrame)
        return as_list(found)

    def _parse(self, payload: bytes) -> Any:
        try:
            return self._loose(payload)
        except (msgspec.DecodeError, ValueError, RecursionError, TypeError) as error:
            raise Malformed("not MessagePack") from error


class JsonCodec:
    """`angarium.1.json`: the same fields; readable, slower."""

    subprotocol, binary = SUBPROTOCOL_JSON, False

    def encode(self, frames: Sequence[AnyFrame]) -> bytes:
        plain = [to_base64url(msgspec.to_builtins(frame)) for frame in frames]
        return msgspec.json.encode(plain[0] if len(plain) == 1 else plain)

    def join(self, encoded: Sequence[bytes]) -> bytes:
        return encoded[0] if len(encoded) == 1 else b"[" + b",".join(encoded) + b"]"

    def decode_client(self, payload: bytes) -> list[ClientFrame | UnknownFrame]:
        check_size(payload)
        return frame_by_frame(from_base64url(self._parse(payload)), ClientFrame)

    def decode_server(self, payload: bytes) -> list[ServerFrame | UnknownFrame]:
        check_size(payload, FRAME_BYTES_MAX * 3)
        return frame_by_frame(from_base64url(self._parse(payload)), ServerFrame)

    def _parse(self, payload: bytes) -> Any:
        try:
            return msgspec.json.decode(payload)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise Malformed("not JSON") from error


def messages_of(codec: Codec, encoded: Sequence[bytes]) -> list[bytes]:
    """WebSocket messages for these frames: few, and over the limits only where one frame is."""
    found: list[bytes] = []
    start, size = 0, _ARRAY_BYTES
    for at, frame in enumerate(encoded):
        full = at - start >= FRAMES_PER_ARRAY_MAX or size + len(frame) > FRAME_BYTES_MAX
        if full and at > start:
            found.append(codec.join(encoded[start:at]))
            start, size = at, _ARRAY_BYTES
        size += len(frame)
    if start < len(encoded):
        found.append(codec.join(encoded[start:]))
    return found


def check_size(payload: bytes, bytes_max: int = FRAME_BYTES_MAX) -> None:
    if len(payload) > bytes_max:
        raise TooLarge(f"a message on the wire has at most {bytes_max} bytes")


def as_list(found: Any) -> list[Any]:
    """The frames of one message. Raises Malformed for an empty or overlong array."""
    frames = found if isinstance(found, list) else [found]
    if not 1 <= len(frames) <= FRAMES_PER_ARRAY_MAX:
        raise Malformed(f"an array holds 1 to {FRAMES_PER_ARRAY_MAX} frames")
    return frames


def frame_by_frame(parsed: Any, union: Any) -> list[Any]:
    """The slow path: tell unknown frame types (tolerated) from broken ones (refused)."""
    known = {member.__struct_config__.tag for member in union.__args__}
    frames: list[Any] = []
    for item in as_list(parsed):
        if not isinstance(item, dict) or not isinstance(item.get("t"), str):
            raise Malformed("a frame is a map with its type in `t`")
        if item["t"] in known:
            try:
                frames.append(msgspec.convert(item, union))
            except (msgspec.ValidationError, ValueError) as error:
                raise Malformed(f"a `{item['t']}` frame has wrong fields") from error
        elif type(item.get("id")) is int and -(2**63) <= item["id"] < 2**64:
            frames.append(UnknownFrame(item["id"], item["t"][:32]))
    return frames


def to_base64url(value: Any) -> Any:
    """msgspec writes bytes as base64 under `ct`; JSON on this wire uses base64url."""
    if isinstance(value, dict):
        return {
            key: _url(item) if key == "ct" else to_base64url(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [to_base64url(item) for item in value]
    return value


def from_base64url(value: Any) -> Any:
    """The way back, before typed conversion."""
    if isinstance(value, dict):
        return {
            key: _standard(item) if key == "ct" else from_base64url(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [from_base64url(item) for item in value]
    return value


def _url(text: Any) -> Any:
    if not isinstance(text, str):
        return text  # The limit of the same name in a welcome.
    return text.rstrip("=").translate({ord("+"): "-", ord("/"): "_"})


def _standard(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    padded = text + "=" * (-len(text) % 4)
    return padded.translate({ord("-"): "+", ord("_"): "/"})


def codec_for(subprotocol: str | None) -> Codec:
    """The codec a handshake chose; MessagePack when the client named none."""
    return JsonCodec() if subprotocol == SUBPROTOCOL_JSON else MsgpackCodec()
