"""The file of a LowRankFisher: safetensors, tied to the weights by their fingerprint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.plan import make_plan
from fastunlearn.storage.files import write_tensors

from .fingerprint import fingerprint
from .rows import Rows

if TYPE_CHECKING:
    from .low_rank_fisher import LowRankFisher

__all__ = ["load", "save"]

FORMAT = "fastunlearn-low-rank-fisher-1"
SETTINGS = ("damping", "blocks", "kind", "parameters", "pad_token_id", "seed")


def save(fisher: LowRankFisher, path: str | os.PathLike, overwrite: bool) -> None:
    if type(fisher.blocks) is int:
        raise InvalidInputError("save: blocks of a fixed number of weights keep no Gram; name a file for G in path=")
    gram, rows = fisher.gram, fisher._rows
    about = {
        "format": FORMAT, "damping": fisher.damping, "blocks": fisher.blocks.kind, "kind": fisher.kind,
        "count": rows.count, "digests": rows.digests, "parameters": list(fisher.parameters), "seed": fisher._seed,
        "pad_token_id": fisher._pad, "batch_size": fisher._batch_size, "weights": fingerprint(fisher.parameters),
        "precision": fisher._precision,
    }  # fmt: skip
    tensors = {"gram": gram.cpu().contiguous(), **rows.tensors()}
    write_tensors(path, tensors, {"fastunlearn": json.dumps(about)}, overwrite=overwrite)


def load(kind, path: str | os.PathLike, model: nn.Module, *, memory: int | str = "8GB", progress=None) -> LowRankFisher:
    if not Path(path).is_file():
        raise InvalidInputError(f"path: there is no file {path}; make one with LowRankFisher.save")
    about = None
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get("fastunlearn", "{}"))
            if isinstance(found, dict) and found.get("format") == FORMAT:
                about = found
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                rows, gram = Rows.read(tensors, about["digests"], about["count"]), tensors["gram"]
                _check(rows, gram, about)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:  # torch raises the last
        raise InvalidInputError(f"path: {path} is damaged ({error}); make the Fisher again") from error
    if about is None:
        raise InvalidInputError(f"path: {path} is not a file of LowRankFisher.save")
    fisher = kind.__new__(kind)
    fisher._state = fisher._group = fisher._storage = fisher._path = None
    fisher._precision = about.get("precision", "model")  # files of before have none
    damping, blocks, sort, names, pad, seed = (about[name] for name in SETTINGS)
    fisher._prepare(model, damping, blocks, sort, memory, names, pad, seed, progress)
    if list(fisher.parameters) != names or fingerprint(fisher.parameters) != about["weights"]:
        raise InvalidInputError("path: this Fisher was saved for other weights than the model has now: make it anew")
    if gram.shape[0] != len(fisher.blocks):
        raise InvalidInputError(f"path: {path} is damaged (Gram matrices of other blocks); make the Fisher again")
    with fisher._passes():
        fisher._plan = make_plan(model, fisher.parameters, rows.samples, pad_token_id=pad)
        fisher._batch_size = about["batch_size"]
        fisher._factor(rows, gram.to(fisher.device))
    return fisher


def _check(rows: Rows, gram: Tensor, about: dict) -> None:
    """Raises KeyError or ValueError where something is missing, or the parts do not go together."""
    for name in (*SETTINGS, "weights", "batch_size"):
        about[name]
    count = len(rows)
    if any(len(part) != count for part in (rows.weights, rows.signs, rows.owner, rows.digests)):
        raise ValueError(f"it does not say for each of {count} rows what it is")
    if gram.dim() != 3 or gram.shape[1:] != (count, count):
        raise ValueError(f"its Gram matrices are not of {count} rows")
