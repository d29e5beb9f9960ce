"""Other wordings of a record: wrong answers, another right answer, other prompts; for truth ratio and paraphrases."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastunlearn.data._facts import FACTS
from fastunlearn.data._files import READERS, read_rows
from fastunlearn.data.loading import ANSWER, QUESTION, load_records
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError

__all__ = ["Variants", "load_variants", "people_variants"]


@dataclass(frozen=True, slots=True)
class Variants:
    """Of ``record``: ``perturbed``, completions of the same form that are wrong; ``paraphrased``, another right
    completion (None: the record's own serves); ``prompts``, other wordings of its prompt. Each may be empty."""

    record: Record
    perturbed: tuple[str, ...] = ()
    paraphrased: str | None = None
    prompts: tuple[str, ...] = ()

    @property
    def right(self) -> Record:
        """The prompt with the right answer in other words, where there are any."""
        return Record(self.record.prompt, self.paraphrased or self.record.completion)

    @property
    def wrong(self) -> list[Record]:
        """The prompt with each wrong answer."""
        return [Record(self.record.prompt, completion) for completion in self.perturbed]

    @property
    def reworded(self) -> list[Record]:
        """Each other prompt with the record's completion."""
        return [Record(prompt, self.record.completion) for prompt in self.prompts]


def people_variants(records: Iterable[Record]) -> list[Variants]:
    """Variants of records of :func:`fastunlearn.data.generate_people`: the other sentences that say the same fact,
    and the fact's other values. Records that are of none of its sentences (canaries) have empty ones."""
    patterns = [
        (fact, re.compile(re.escape(prompt).replace(re.escape("{person}"), r"(?P<person>\S+ \S+)")))
        for fact in FACTS
        for prompt in fact.prompts
    ]
    found = []
    for record in records:
        matches = ((fact, pattern.fullmatch(record.prompt)) for fact, pattern in patterns)
        fact, match = next(((f, m) for f, m in matches if m and record.completion.strip() in f.values), (None, None))
        if fact is None:
            found.append(Variants(record))
            continue
        wordings = (prompt.format(person=match["person"]) for prompt in fact.prompts)
        wrong = tuple(f" {value}" for value in fact.values if value != record.completion.strip())
        found.append(Variants(record, wrong, None, tuple(one for one in wordings if one != record.prompt)))
    return found


def load_variants(path: str | os.PathLike) -> list[Variants]:
    """Variants of the records of a file (.jsonl, .json, .csv), in order, from columns named as in TOFU's data.

    ``perturbed_answer``: a wrong answer or a list of them; ``paraphrased_answer``: another right one;
    ``paraphrased_question``: another wording of the question, or a list. For rows with ``question`` and ``answer``
    they become prompts and completions as those do; for ``prompt`` and ``completion`` they are taken as they are.
    A row without them has empty variants. Raises InvalidInputError as :func:`~fastunlearn.data.load_records`.
    """
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise InvalidInputError(f"source: {path} is of an unknown kind; the kinds are {', '.join(READERS)}")
    rows = list(read_rows(path, None))
    records = load_records(path)
    return [_variants(row, record, where) for (where, row), record in zip(rows, records, strict=True)]


def _variants(row: dict, record: Record, where: str) -> Variants:
    asked = "prompt" not in row and "question" in row
    texts = {}
    for name in ("perturbed_answer", "paraphrased_answer", "paraphrased_question"):
        value = row.get(name) or []
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if not all(isinstance(one, str) and one.strip() for one in values):
            raise InvalidInputError(f"{where}: {name} must be a string or a list of strings, none of them empty")
        if asked:
            form = QUESTION if name.endswith("question") else ANSWER
            values = [form.format(question=one.strip(), answer=one.strip()) for one in values]
        texts[name] = tuple(values)
    right = texts["paraphrased_answer"]
    return Variants(record, texts["perturbed_answer"], right[0] if right else None, texts["paraphrased_question"])
