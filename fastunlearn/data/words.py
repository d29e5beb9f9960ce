"""Where words begin and end, also in scripts that put no spaces between them."""

from __future__ import annotations

import re

__all__ = ["words", "words_and_signs"]

#: Thai, Lao, Burmese, Khmer, kana, Han: each character counts as a word. One "word" a sentence would make texts that
#: differ in one character wholly unlike.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_WORDS = re.compile(rf"(?=[{_SPACELESS}])[^\W_]|(?:(?![{_SPACELESS}])[^\W_])+")
_SIGNS = re.compile(rf"(?=[{_SPACELESS}])\w|(?:(?![{_SPACELESS}])\w)+|[^\w\s]")


def words(text: str) -> list[str]:
    """The runs of letters and digits of ``text``, as they are written."""
    return _WORDS.findall(text)


def words_and_signs(text: str) -> list[str]:
    """The runs of letters, digits and underscores of ``text``, and every other character but white space."""
    return _SIGNS.findall(text)
