"""A model folder in the form that a saved copy of it has: folders from elsewhere may name their tensors otherwise, hold
some that the model has no place for, or mix types, and then compare with a model after in this form only."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fastunlearn.errors import ModelFolderError

from .canonical import visible
from .digests import model_digest

__all__ = ["as_saved", "digest_as_saved", "tensor_forms"]


def tensor_forms(folder: str | Path) -> dict[str, tuple[Path, str, tuple[int, ...]]]:
    """File, type and shape of every tensor of a model folder, by name. Raises ModelFolderError."""
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118
                    about = file.get_slice(name)
                    found[name] = (path, about.get_dtype(), tuple(about.get_shape()))
        except (SafetensorError, OSError) as error:
            raise ModelFolderError(f"{path} is cut short or damaged ({visible(error)})") from error
    return found


def _alike(one: str | Path, two: str | Path) -> bool:
    forms = [{name: about[1:] for name, about in tensor_forms(folder).items()} for folder in (one, two)]
    return forms[0] == forms[1]


@contextlib.contextmanager
def as_saved(folder: str | Path, like: str | Path | None, *, trust_remote_code: bool = False) -> Iterator[Path]:
    """``folder`` itself where its tensors have the names, types and shapes of those in ``like``; else a copy for a
    while, loaded and saved again."""
    if like is not None and _alike(folder, like):
        yield Path(folder)
        return
    from fastunlearn.storage import load_model, save_model

    with tempfile.TemporaryDirectory(prefix="fastunlearn-") as place:
        network, _ = load_model(folder, trust_remote_code=trust_remote_code)
        yield save_model(network, None, Path(place) / "saved")


def digest_as_saved(folder: str | Path, like: str | Path | None, *, trust_remote_code: bool = False) -> dict | None:
    """``tensors`` and ``weights``, as :func:`~fastunlearn.evidence.digests.model_digest`, of the saved form; None where
    ``folder`` is in the form of ``like`` already."""
    with as_saved(folder, like, trust_remote_code=trust_remote_code) as place:
        found = None if place == Path(folder) else model_digest(place)
    return None if found is None else {"tensors": found["tensors"], "weights": found["weights"]}
