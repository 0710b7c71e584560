"""Which language a person writes, among those that the agents are to know."""

import asyncio
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from angarium.errors import Misconfigured
from angarium.limits import LANGUAGE_TEXT_CHARS_MAX, LANGUAGE_WORDS_MIN

_SURE_AT_FIRST, _SURE_TO_CHANGE = 0.6, 0.9


class Languages:
    """Tells one of `codes` (ISO 639-1) for a text. Open it first; with no codes it tells none.

    Raises Misconfigured where the package that can tell them is absent.
    """

    def __init__(self, codes: Sequence[str]) -> None:
        self._codes = tuple(codes)
        self._model: Any = None
        if codes and find_spec("py3langid") is None:
            raise Misconfigured(
                "telling languages needs the package py3langid: install it with"
                " `pip install 'angarium[router]'`, or set no languages for routing"
            )

    async def open(self) -> None:
        """Load the model, in another thread: it takes a second. Raises Misconfigured for a
        code that it does not know."""
        if self._codes and self._model is None:
            self._model = await asyncio.to_thread(self._load)

    def tell(self, text: str, before: str = "") -> str:
        """The language of `text`; `before` where it is too short or not sure to tell."""
        said = text[:LANGUAGE_TEXT_CHARS_MAX]
        if self._model is None or len(said.split()) < LANGUAGE_WORDS_MIN:
            return before
        code, sure = self._model.classify(said)
        enough = sure >= (_SURE_TO_CHANGE if before else _SURE_AT_FIRST)
        return str(code) if enough else before

    def _load(self) -> Any:
        package = import_module("py3langid.langid")
        model = package.LanguageIdentifier.from_model_file(package.MODEL_FILE, norm_probs=True)
        unknown = sorted(set(self._codes) - set(model.labels))
        if unknown:
            raise Misconfigured(f"routing languages: {', '.join(unknown)} cannot be told apart")
        model.set_languages(list(self._codes))
        return model
