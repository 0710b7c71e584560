import pytest

from angarium.examples.search import Search, Section, split_sections, words

PAGE = """# Delivery

Intro.

## Order

Messages keep their order.

```sh
# not a heading
```

## Loss

Nothing acknowledged is lost.
"""


def test_a_page_is_cut_at_its_headings():
    sections = split_sections("d.md", PAGE)
    assert [section.title for section in sections] == ["Delivery", "Order", "Loss"]


def test_a_comment_in_a_code_block_is_no_heading():
    assert "# not a heading" in split_sections("d.md", PAGE)[1].text


def test_each_row_of_a_glossary_is_a_section():
    table = "# Words\n\n| Word | Means |\n| --- | --- |\n| turn | one answer |\n"
    assert Section("g.md", "turn", "one answer") in split_sections("g.md", table)


def test_a_heading_without_text_is_no_section():
    assert split_sections("d.md", "# A\n\n## B\n\ntext") == [Section("d.md", "B", "text")]


@pytest.mark.parametrize(
    ("one", "other"),
    [("orders", "order"), ("retries", "retry"), ("sealed", "seal"), ("messages", "message")],
)
def test_forms_of_a_word_meet(one, other):
    assert words(one) == words(other)


def test_the_section_about_the_question_comes_first():
    best = Search(split_sections("d.md", PAGE)).best("is anything lost?")
    assert best[0].section.title == "Loss"


def test_rare_words_weigh_more_than_frequent_ones():
    sections = [Section("p", f"t{n}", "message message message") for n in range(5)]
    sections.append(Section("p", "rare", "message ratchet"))
    assert Search(sections).best("message ratchet")[0].section.title == "rare"


def test_a_question_without_a_known_word_matches_nothing():
    assert Search(split_sections("d.md", PAGE)).best("giraffes?") == []


def test_the_share_says_how_much_of_the_question_was_found():
    search = Search(split_sections("d.md", PAGE))
    assert search.best("order")[0].share == 1.0
    assert search.best("order giraffes")[0].share < 0.7


def test_nothing_to_search_finds_nothing():
    assert Search([]).best("order") == []
