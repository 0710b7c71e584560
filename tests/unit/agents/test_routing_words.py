import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.agents.routing.words import is_acknowledgement, normalise


@pytest.mark.parametrize(
    "text",
    [
        "Where is my parcel?",
        "where  is my\tparcel",
        "WHERE IS MY PARCEL!!",
        " where_is my parcel",
    ],
)
def test_case_spaces_and_marks_make_no_difference(text):
    assert normalise(text) == "where is my parcel"


def test_apostrophes_and_vowel_signs_are_part_of_words():
    assert normalise("That's it.") == "that's it"
    assert normalise("ठीक है!") == "ठीक है"


def test_signs_alone_do_not_all_become_one():
    assert len({normalise(sign) for sign in ("?", "!", "👍", "")}) == 4


@given(st.text())
def test_normalising_twice_changes_nothing_more(text):
    once = normalise(text)

    assert normalise(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "ok", "Yes, please!", "thank you", "got it", "no", "vale, gracias", "Sí",
        "por favor", "muito obrigada", "não", "ठीक है",
        "हाँ जी", "نعم", "شكرا",
        "Ja, danke", "alles klar", "Oui, merci", "d'accord", "👍", "thanks 🙏🏽",
    ],
)  # fmt: skip
def test_it_only_acknowledges(text):
    assert is_acknowledgement(text)


@pytest.mark.parametrize(
    "text",
    ["", "?", "yes I want to return my order", "no parcel", "thank you for nothing at all",
     "5", "ok google", "danke yes"],
)  # fmt: skip
def test_it_says_more_than_that(text):
    assert not is_acknowledgement(text)


def test_a_long_text_is_not_looked_through():
    assert is_acknowledgement("ok " + "!" * 70)
    assert not is_acknowledgement("ok " + "!" * 100_000)
