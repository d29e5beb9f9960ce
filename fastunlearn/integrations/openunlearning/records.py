"""OpenUnlearning's data sets as encoded records."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError

__all__ = ["encoded", "indexed", "plain"]

logger = logging.getLogger(__name__)


def plain(value: Any) -> Any:
    """A configuration node of OmegaConf as plain lists and dictionaries; anything else as it is."""
    if type(value).__module__.startswith("omegaconf"):
        from omegaconf import OmegaConf

        return OmegaConf.to_container(value, resolve=True)
    return value


def _answers(item: Mapping, name: str) -> Iterator[Mapping]:
    """The answers of one item: itself; of a pair with an alternate answer the original; of several, each."""
    if "input_ids" in item:
        yield item
    elif "original" in item:
        yield item["original"]
    elif item and all(isinstance(one, Mapping) and "input_ids" in one for one in item.values()):
        yield from item.values()
    else:
        raise InvalidInputError(f"{name}: an item has no input_ids; give a data set of questions, or of texts")


def indexed(dataset: Any, name: str) -> tuple[list[Encoded], list[int]]:
    """Every answer of ``dataset`` as a record, and the index of the item that it is from.

    An item with no token to score (its answer was cut off) is left out, and counted in the log. Raises
    InvalidInputError where nothing is left.
    """
    found, places, empty = [], [], 0
    for place in range(len(dataset)):
        item = dataset[place]
        for answer in _answers(item, name):
            ids, labels = torch.as_tensor(answer["input_ids"]), torch.as_tensor(answer["labels"])
            record = Encoded(ids, labels)
            if not record.targets:
                empty += 1
                continue
            found.append(record)
            places.append(int(answer.get("index", place)))
    if empty:
        logger.warning("%s: %d of %d records have no token to score and are left out", name, empty, empty + len(found))
    if not found:
        raise InvalidInputError(f"{name}: no record of the data set has a token to score; check its max_length")
    return found, places


def encoded(dataset: Any, name: str) -> list[Encoded]:
    """:func:`indexed`, without the indices."""
    return indexed(dataset, name)[0]
