"""Model folders and result files: read with checks, written whole or not at all."""

from fastunlearn.storage.files import refuse_existing, staged_folder, write_json, write_text
from fastunlearn.storage.model_folder import check_device, load_model, load_tokenizer, save_model

__all__ = [
    "check_device",
    "load_model",
    "load_tokenizer",
    "refuse_existing",
    "save_model",
    "staged_folder",
    "write_json",
    "write_text",
]
