"""A record: one piece of text that a model was, or was not, trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fastunlearn.errors import InvalidInputError

__all__ = ["Record"]


@dataclass(frozen=True, slots=True)
class Record:
    """A prompt and the completion that is scored after it.

    The text of the record is ``prompt + completion``, joined as they are: a space between the two belongs
    to the completion (``Record("The capital of Freedonia is", " Fredville")``). Free text has
    ``prompt == ""``, and the completion is the text.

    Raises InvalidInputError for a part that is no string, that cannot be written as UTF-8, or for a
    completion that is empty or only white space (nothing could be scored).
    """

    prompt: str
    completion: str

    def __post_init__(self) -> None:
        for name in ("prompt", "completion"):
            text = getattr(self, name)
            if not isinstance(text, str):
                raise InvalidInputError(f"{name} must be a string, not {type(text).__name__}")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidInputError(
                    f"{name} holds half of a surrogate pair at character {error.start}, which is no valid "
                    "Unicode text: write the data again as UTF-8"
                ) from None
        if not self.completion.strip():
            raise InvalidInputError("completion is empty: give the text that the model is to be scored on")

    @property
    def text(self) -> str:
        """The whole text, as a model reads it."""
        return self.prompt + self.completion

    def digest(self) -> str:
        """The record's identity for overlap checks: SHA-256 (hex) of prompt, NUL, completion, each
        without white space around it. The same text gives the same digest on every machine."""
        return hashlib.sha256(f"{self.prompt.strip()}\0{self.completion.strip()}".encode()).hexdigest()
