"""How texts are compared, and the words that belong to whoever was just talking. Pure."""

import re
import unicodedata

from angarium.limits import ACKNOWLEDGEMENT_CHARS_MAX, ACKNOWLEDGEMENT_WORDS_MAX

_MARKS = re.compile(r"[^\w\s']|_")
_SPACES = re.compile(r"\s+")
_COMBINING = {"Mn", "Mc"}

_WORDS = {
    "en": "yes yeah yep yup sure ok okay k fine right correct exactly no nope nah thanks"
    " thank you thx ty please great good perfect cool nice alright got it",
    "es": "sí si claro vale bueno bien correcto exacto no gracias muchas por favor perfecto"
    " genial de acuerdo listo",
    "pt": "sim claro certo ok beleza bom bem correto exato isso não nao obrigado obrigada muito"
    " por favor perfeito ótimo tá",
    "hi": "हाँ हां हा जी ठीक है अच्छा सही नहीं धन्यवाद शुक्रिया बिल्कुल haan han ji theek hai"
    " accha sahi nahi nahin dhanyavaad shukriya bilkul",
    "ar": "نعم أجل اجل ايوه أيوه لا حسنا حسناً تمام شكرا شكراً جزيلا طيب صحيح من فضلك ممتاز"
    " اوكي بالضبط",
    "de": "ja jo jawohl klar gut okay richtig genau stimmt nein nö danke schön vielen dank"
    " bitte super prima passt alles",
    "fr": "oui ouais si bien sûr sur d'accord accord ok exact exactement correct non merci"
    " beaucoup s'il vous te plaît plait parfait super",
}


def normalise(text: str) -> str:
    """The same for texts that differ in case, punctuation, spaces and forms of characters.

    Signs alone (a thumb, "?") stay as they are, so that they do not all become one.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = _SPACES.sub(" ", _without_marks(folded)).strip()
    return plain or _SPACES.sub(" ", folded).strip()


def is_acknowledgement(text: str) -> bool:
    """Whether the text only says yes, no or thanks, in one of seven languages, or by a sign."""
    if len(text) > ACKNOWLEDGEMENT_CHARS_MAX:
        return False
    words = normalise(text).split()
    if not 0 < len(words) <= ACKNOWLEDGEMENT_WORDS_MAX:
        return False
    return any(all(word in known for word in words) for known in _KNOWN) or all(
        set(word) <= _SIGNS for word in words
    )


def _without_marks(text: str) -> str:
    return _MARKS.sub(_mark, text)


def _mark(found: re.Match[str]) -> str:
    # `\w` leaves out vowel signs of Indian and Arabic scripts, which are part of their words.
    return found[0] if unicodedata.category(found[0]) in _COMBINING else " "


_KNOWN = [frozenset(normalise(words).split()) for words in _WORDS.values()]
_SIGNS = frozenset("👍👌🙏✅👏❤😊🙂🏻🏼🏽🏾🏿\ufe0f")
