"""The visible words of the report, by language."""

from __future__ import annotations

from collections.abc import Mapping

from fastunlearn.audit._words_en import EN
from fastunlearn.audit._words_ja import JA
from fastunlearn.errors import InvalidInputError

__all__ = ["EN", "LANGUAGES", "words"]

LANGUAGES: dict[str, Mapping] = {"en": EN, "ja": JA}


def words(language: str) -> Mapping:
    """The table of a language. Raises InvalidInputError for one that is not there."""
    if language not in LANGUAGES:
        raise InvalidInputError(f"language {language!r} is not there: use one of {', '.join(LANGUAGES)}")
    return LANGUAGES[language]
