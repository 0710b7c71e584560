"""What is found of what was said earlier."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.agents.recall import (
    cosine,
    new_exchange,
    pack_vector,
    score_by_words,
    unpack_vector,
)
from angarium.limits import RECALL_CHARS_MAX

TEXTS = {
    0: "user: I want two red lamps\nagent: ordered",
    1: "user: where is my parcel\nagent: in Lyon",
    2: "user: thanks\nagent: you are welcome",
}


def test_the_text_that_shares_the_rarest_words_scores_highest():
    scores = score_by_words("which lamps did I order?", TEXTS)
    assert max(scores, key=scores.get) == 0
    assert scores[2] == 0


@pytest.mark.parametrize("query", ["", "  ", "?!"])
def test_a_query_without_words_finds_nothing(query):
    assert set(score_by_words(query, TEXTS).values()) == {0.0}


@given(st.text(max_size=60), st.dictionaries(st.integers(), st.text(max_size=60), max_size=8))
def test_scores_by_words_are_between_nothing_and_all(query, texts):
    assert all(0 <= score <= 1.0001 for score in score_by_words(query, texts).values())


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=64))
def test_a_vector_is_kept_to_three_digits(row):
    assert unpack_vector(pack_vector(row)) == pytest.approx(row, abs=1e-3)


def test_vectors_of_different_models_are_not_compared():
    assert cosine([1.0, 0.0], [1.0]) == 0


def test_an_exchange_is_kept_cut():
    said = [("user", "a" * RECALL_CHARS_MAX), ("agent", "b")]
    assert len(new_exchange(said, 1, "c").text) == RECALL_CHARS_MAX
