"""How a load deals clients to conversations."""

import random
from collections import Counter

import pytest

from angarium.testing.load import deal


def test_everybody_takes_part_in_about_as_many_conversations() -> None:
    layout = deal(20, 15, 4, random.Random(1))

    counts = Counter(number for members in layout for number in members)
    assert set(counts.values()) == {3}
    assert all(len(set(members)) == 4 for members in layout)


def test_no_member_is_dealt_twice_where_the_deck_ends_inside_a_conversation() -> None:
    layout = deal(5, 50, 3, random.Random(1))

    assert all(len(set(members)) == 3 for members in layout)
    counts = Counter(number for members in layout for number in members)
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("members", [0, 1, 6])
def test_a_conversation_that_cannot_be_filled_is_refused(members: int) -> None:
    with pytest.raises(ValueError, match="two members"):
        deal(5, 1, members, random.Random(1))
