"""The file of a LowRankFisher: safetensors, tied to the weights by their fingerprint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from torch import nn

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.plan import make_plan
from fastunlearn.storage.files import write_tensors

from .fingerprint import fingerprint
from .rows import Rows

if TYPE_CHECKING:
    from .low_rank_fisher import LowRankFisher

__all__ = ["load", "save"]

FORMAT = "fastunlearn-low-rank-fisher-1"


def save(fisher: LowRankFisher, path: str | os.PathLike, overwrite: bool) -> None:
    if type(fisher.blocks) is int:
        raise InvalidInputError("save: blocks of a fixed number of weights keep no Gram; name a file for G in path=")
    gram, rows = fisher.gram, fisher._rows
    about = {
        "format": FORMAT, "damping": fisher.damping, "blocks": fisher.blocks.kind, "kind": fisher.kind,
        "count": rows.count, "digests": rows.digests, "parameters": list(fisher.parameters), "seed": fisher._seed,
        "pad_token_id": fisher._pad, "batch_size": fisher._batch_size, "weights": fingerprint(fisher.parameters),
    }  # fmt: skip
    tensors = {"gram": gram.cpu().contiguous(), **rows.tensors()}
    write_tensors(path, tensors, {"fastunlearn": json.dumps(about)}, overwrite=overwrite)


def load(kind, path: str | os.PathLike, model: nn.Module, *, memory: int | str = "8GB", progress=None) -> LowRankFisher:
    if not Path(path).is_file():
        raise InvalidInputError(f"path: there is no file {path}; make one with LowRankFisher.save")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("fastunlearn", "{}"))
            if about.get("format") != FORMAT:
                raise InvalidInputError(f"path: {path} is not a file of LowRankFisher.save")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        rows = Rows.read(tensors, about["digests"], about["count"])
        gram, names, weights = tensors["gram"], about["parameters"], about["weights"]
        settings = [about[name] for name in ("damping", "blocks", "kind")]
        pad, seed, batch_size = about["pad_token_id"], about["seed"], about["batch_size"]
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise InvalidInputError(f"path: {path} is damaged ({error}); make the Fisher again") from error
    damping, blocks, sort = settings
    found = kind.__new__(kind)
    found._state = found._group = found._storage = found._path = None
    found._precision = "model"
    found._prepare(model, damping, blocks, sort, memory, names, pad, seed, progress)
    if list(found.parameters) != names or fingerprint(found.parameters) != weights:
        raise InvalidInputError("path: this Fisher was saved for other weights than the model has now: make it anew")
    found._plan = make_plan(model, found.parameters, rows.samples, pad_token_id=pad)
    found._batch_size = batch_size
    found._factor(rows, gram.to(found.device))
    return found
