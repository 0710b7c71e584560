"""How text looks on WhatsApp, where it is cut, and which words opt out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.channels.whatsapp import opt_wish, render, split_text, with_options


@pytest.mark.parametrize("text", ["STOP", "stop", " Stop. ", "unsubscribe", "STOPALL!"])
def test_a_whole_message_can_opt_out(text: str) -> None:
    assert opt_wish(text) == "stop"


@pytest.mark.parametrize("text", ["please stop", "cancel", "end", "stop it", "", "no"])
def test_a_word_in_a_sentence_or_an_answer_does_not_opt_out(text: str) -> None:
    assert opt_wish(text) is None


def test_markdown_becomes_what_whatsapp_shows() -> None:
    shown = render("# Title\nA **bold** [page](https://a.example/b)\n```\n**not here**\n```")
    assert shown == "*Title*\nA *bold* page (https://a.example/b)\n```\n**not here**\n```"


def test_options_are_numbered() -> None:
    assert with_options("Which?", ["One", "Two"]) == "Which?\n\n1. One\n2. Two"
    assert with_options("Fine.", []) == "Fine."


def test_text_is_cut_at_paragraphs_then_sentences_then_words() -> None:
    assert split_text("aaaa bbbb\n\ncccc dddd", 14) == ["aaaa bbbb", "cccc dddd"]
    assert split_text("One two. Three four five", 14) == ["One two.", "Three four", "five"]
    assert split_text("abcdefghij" * 2, 8) == ["abcdefgh", "ijabcdef", "ghij"]
    assert split_text(" \n ", 8) == []


@given(st.text(max_size=400), st.integers(1, 60))
def test_no_piece_is_too_long_and_nothing_but_space_is_lost(text: str, most: int) -> None:
    pieces = split_text(text, most)
    assert all(0 < len(piece) <= most for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_the_limit_counts_code_points() -> None:
    assert [len(piece) for piece in split_text("😀" * 1700, 1600)] == [1600, 100]
