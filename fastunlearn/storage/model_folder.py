"""Model folders in the Hugging Face layout: local, safetensors only, checked before and after reading."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fastunlearn.errors import InvalidInputError, ModelFolderError, OutputError
from fastunlearn.storage._folder_checks import check_folder
from fastunlearn.storage.files import staged_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_device", "load_model", "load_tokenizer", "save_model"]

_TOKENIZER_BYTES = 32 << 20  # room for the tokenizer and the small files beside the weights


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no load report of transformers: what they say is checked here and raised."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _check_weights(model: torch.nn.Module) -> None:
    for name, weight in model.named_parameters():
        if not weight.dtype.is_floating_point:
            raise ModelFolderError(f"weight {name} is {weight.dtype}; floating-point weights are needed")
        bad = int((~torch.isfinite(weight)).sum())
        if bad:
            raise InvalidInputError(
                f"weight {name} of the model holds {bad} values that are NaN or infinite; use an intact model"
            )


def load_model(
    folder: str | os.PathLike,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model and the tokenizer of a local folder; nothing is downloaded.

    ``dtype``: of the weights (None = as stored). ``device``: where to put them. ``trust_remote_code``: run
    the Python files of the folder, which its author wrote. The model comes in evaluation mode. Warns where
    the folder holds weights that the model has no place for.

    Raises ModelFolderError (missing, incomplete, cut short, pickle only, quantised, not a causal language
    model, no tokenizer), InvalidInputError (NaN or infinite weights, a device that is not there).
    """
    folder = Path(folder)
    check_folder(folder)
    device = check_device(device)
    from transformers import AutoModelForCausalLM

    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        with _quiet():
            model, found = AutoModelForCausalLM.from_pretrained(
                str(folder), use_safetensors=True, output_loading_info=True, dtype=dtype or "auto", **options
            )
    except Exception as error:  # transformers raises all kinds: KeyError, ValueError, RuntimeError, ...
        raise ModelFolderError(_why_not_loaded(folder, error)) from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ModelFolderError(
            f"{folder} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}: "
            "it is incomplete, or not a causal language model"
        )
    if found["unexpected_keys"]:
        extra = sorted(found["unexpected_keys"])
        warnings.warn(
            f"{len(extra)} weights of {folder}, such as {extra[0]}, have no place in {type(model).__name__}: "
            "they are not used, and a saved copy will not have them",
            stacklevel=2,
        )
    _check_weights(model)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelFolderError(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens and the model {rows}: "
            "they do not belong together"
        )
    return model.to(device).eval(), tokenizer


def load_tokenizer(folder: str | os.PathLike, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a local model folder. Raises ModelFolderError where there is none that can be read."""
    from transformers import AutoTokenizer

    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=trust_remote_code
            )
    except Exception as error:
        raise ModelFolderError(
            f"{folder} has no tokenizer that can be read ({_first_line(error)}); copy tokenizer.json and "
            "tokenizer_config.json there"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _why_not_loaded(folder: Path, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"{folder} brings Python code of its own, which is not run: read it, and if you trust it, "
            "pass trust_remote_code=True (--trust-remote-code)"
        )
    return f"{folder} cannot be loaded as a causal language model: {_first_line(error)}"


def check_device(device: str | torch.device) -> torch.device:
    """``device`` as a torch.device. Raises InvalidInputError where it is unknown or not on this machine."""
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        message = f"device={str(device)!r} cannot be used here: {_first_line(error)}"
        raise InvalidInputError(message) from error
    return device


def _weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of the weights on disk, tied ones counted once."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def _write_model(model: PreTrainedModel, stage: Path) -> None:
    """``save_pretrained``, with the generation settings kept even where transformers finds them at odds.

    Some published models ship generation settings (a temperature without sampling) that transformers reads
    but refuses to write; hours of work must not fail on them.
    """
    settings = getattr(model, "generation_config", None)
    try:
        if settings is not None:
            settings.validate(strict=True)
    except ValueError:
        model.generation_config = type(settings)()
        try:
            model.save_pretrained(stage)
        finally:
            model.generation_config = settings
        settings.to_json_file(stage / "generation_config.json")
    else:
        model.save_pretrained(stage)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    out: str | os.PathLike,
    *,
    overwrite: bool = False,
    extra: Mapping[str, object] | None = None,
) -> Path:
    """Writes model, tokenizer and configurations to the folder ``out``, which appears whole or not at all.

    The layout is that of ``save_pretrained`` (safetensors, tied weights once). ``extra``: JSON-ready objects
    by file name, written beside the weights. ``overwrite``: replaces an existing model folder. Returns the
    folder.

    Raises OutputError (there already, no space, no permission): nothing is left behind and an ``out`` from
    before is as it was. InvalidInputError: ``extra`` is not JSON-ready, or its name is not a plain file name.
    """
    for name in extra or {}:
        if Path(name).name != name or not name.endswith(".json"):
            raise InvalidInputError(f"extra names {name!r}; plain names of .json files are needed")
    needed = _weight_bytes(model) + (_TOKENIZER_BYTES if tokenizer is not None else 0)
    with staged_folder(out, overwrite=overwrite, needed=needed) as stage, _quiet():
        _write_model(model, stage)
        if not any(stage.glob("*.safetensors")):
            raise OutputError(f"{out}: no safetensors file was written for {type(model).__name__}")
        if tokenizer is not None:
            tokenizer.save_pretrained(stage)
        for name, value in (extra or {}).items():
            write_json(stage / name, value)
    return Path(out)
