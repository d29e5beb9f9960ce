"""Is a model folder complete and safe to read? Answered before any of it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fastunlearn.errors import ModelFolderError

__all__ = ["check_folder"]

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read as JSON: {error}; copy or download it again"
        raise ModelFolderError(message) from error
    if not isinstance(value, dict):
        raise ModelFolderError(f"{path} must hold a JSON object; copy or download it again")
    return value


def _shards(folder: Path) -> list[Path]:
    """The weight files of ``folder``, all there; or ModelFolderError."""
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _INDEX).is_file():
        pickled = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt")) + sorted(folder.glob("*.pth"))
        if pickled:
            raise ModelFolderError(
                f"{folder} has its weights only in {pickled[0].name}, a pickle file, which can run code when "
                "read: convert it once where you trust it, with AutoModelForCausalLM.from_pretrained(folder)"
                ".save_pretrained(new_folder), which writes safetensors"
            )
        raise ModelFolderError(f"{folder} holds neither {_WEIGHTS} nor {_INDEX}: copy or download it")
    mapping = _read_json(folder / _INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise ModelFolderError(f"{folder / _INDEX} has no weight_map; copy or download it again")
    names = sorted({str(name) for name in mapping.values()})
    for name in names:
        if Path(name).name != name:
            raise ModelFolderError(f"{folder / _INDEX} names {name!r}, which is not a file of the folder")
        if not (folder / name).is_file():
            raise ModelFolderError(f"{folder / _INDEX} names {name}, which is missing; copy or download it")
    return [folder / name for name in names]


def check_folder(folder: Path) -> None:
    """Raises ModelFolderError where ``folder`` is missing, incomplete, cut short or quantised.

    Reads the headers of the weight files only, which also tells whether a file is cut short.
    """
    if not folder.exists():
        raise ModelFolderError(f"model folder {folder} does not exist; give the path of a local folder")
    if not folder.is_dir():
        raise ModelFolderError(f"model folder {folder} is a file; give the folder that holds config.json")
    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"model folder {folder} has no config.json; give a Hugging Face model folder")
    if _read_json(folder / "config.json").get("quantization_config"):
        raise ModelFolderError(f"model folder {folder} is quantised: use float32, float16 or bfloat16")
    for shard in _shards(folder):
        try:
            with safe_open(shard, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelFolderError(
                f"{shard} is cut short or damaged ({error}); copy or download it again"
            ) from error
