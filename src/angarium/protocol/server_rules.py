"""Rules of `angarium.1` that need no connection: what may be sent, how errors are told."""

from typing import Any

from angarium.errors import AngariumError, Malformed, TooLarge
from angarium.ids import check_uuid
from angarium.limits import CIPHERTEXT_BYTES_MAX, DEVICES_PER_USER_MAX, PARTICIPANTS_MAX
from angarium.protocol.frames import Err, Send

SEQUENCE_MAX = 2**62
TO_MAX = PARTICIPANTS_MAX * DEVICES_PER_USER_MAX
_KIND_CHARACTERS_MAX = 32
_NAME_CHARACTERS_MAX = 64  # Of a conversation: it is kept while the send is worked on.


def check_send(send: Send) -> None:
    """Raises Malformed or TooLarge unless the fields of the send are within bounds."""
    check_uuid(send.key)
    if len(send.c) > _NAME_CHARACTERS_MAX:
        raise Malformed("`c` names a conversation")
    if send.cs < 1 or send.cs > SEQUENCE_MAX:
        raise Malformed("`cs` counts from 1")
    if not send.kind or send.kind == "void" or len(send.kind) > _KIND_CHARACTERS_MAX:
        raise Malformed("this kind cannot be sent")
    to = send.to
    if len(to) > 1 and (len(to) > TO_MAX or len({sealed.dev for sealed in to}) != len(to)):
        raise Malformed("`to` names each device once")
    for sealed in to:
        if not 0 < len(sealed.ct) <= CIPHERTEXT_BYTES_MAX:
            if not sealed.ct:
                raise Malformed("a ciphertext is empty")
            raise TooLarge(f"a ciphertext has at most {CIPHERTEXT_BYTES_MAX} bytes")


def err_frame(request: int, error: AngariumError) -> Err:
    """The frame of an error, from the one error table."""
    facts: dict[str, Any] = error.data()
    return Err(
        id=request,
        code=error.code,
        why=str(error),
        retry=error.retryable,
        after_ms=facts.get("after_ms", 0),
        expect_cs=facts.get("expect_cs", 0),
        floor=facts.get("floor", 0),
        missing=facts.get("missing", []),
        extra=facts.get("extra", []),
    )


def close_reason(error: AngariumError) -> str:
    """The code word, and when to come back where that is known: `busy after_ms=500`."""
    after_ms = error.data().get("after_ms")
    return error.code if after_ms is None else f"{error.code} after_ms={after_ms}"
