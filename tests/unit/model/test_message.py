"""What the log answers."""

import weakref

from angarium.errors import Unavailable
from angarium.model.message import NotAccepted


class Batch:
    """Stands for messages that were to be stored."""


def refuse(batch: Batch) -> tuple[NotAccepted, "weakref.ref[Batch]"]:
    try:
        raise Unavailable("the store does not answer") from ValueError("why")
    except Unavailable as error:
        answer = NotAccepted(error)
    return answer, weakref.ref(batch)


def test_a_refusal_keeps_no_message_in_memory() -> None:
    answer, batch = refuse(Batch())

    assert isinstance(answer.error, Unavailable)
    assert batch() is None  # At once: no garbage collector was needed.
