import asyncio

import pytest

from angarium.agents.routing import language
from angarium.agents.routing.language import Languages
from angarium.errors import Misconfigured

CODES = ("en", "es", "pt", "hi", "ar", "de", "fr")


@pytest.fixture(scope="module")
def languages():
    made = Languages(CODES)
    asyncio.run(made.open())
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("where is my parcel", "en"),
        ("wo ist mein Paket", "de"),
        ("dónde está mi pedido", "es"),
        ("não chegou ainda", "pt"),
        ("je veux un remboursement", "fr"),
        ("मेरा पार्सल कहाँ है", "hi"),
        ("أين طلبي الآن", "ar"),
    ],
)
def test_a_few_words_tell_the_language(text, code, languages):
    assert languages.tell(text) == code


@pytest.mark.slow
@pytest.mark.parametrize("text", ["danke schön", "", "1234 5678 9999", "mera parcel kahan hai"])
def test_what_does_not_tell_leaves_what_was_known(text, languages):
    assert languages.tell(text, "en") == "en"
    assert languages.tell(text) == ""


@pytest.mark.slow
def test_a_known_language_changes_only_when_it_is_sure(languages):
    assert languages.tell("dónde está mi pedido", "pt") == "pt"  # Sure to 0.78.
    assert languages.tell("je veux un remboursement", "pt") == "fr"


@pytest.mark.slow
def test_a_language_that_cannot_be_told_is_refused():
    with pytest.raises(Misconfigured, match="xx"):
        asyncio.run(Languages(["en", "xx"]).open())


def test_without_the_package_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(language, "find_spec", lambda name: None)

    with pytest.raises(Misconfigured, match=r"angarium\[router\]"):
        Languages(["en"])
    assert Languages(()).tell("where is my parcel", "de") == "de"
