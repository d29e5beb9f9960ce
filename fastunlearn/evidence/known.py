"""What files may hold without a record having told it: the package's own words, the machine's, those of the model
before. A record that has a word in common with them is not found again by that word."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .canonical import canonical, visible
from .digests import package_texts
from .environment import environment

__all__ = ["known_as_saved", "known_texts"]

#: Files of a model folder that say how text becomes tokens and what the model is. A model card is none of them.
_MODEL_FILES = ("*config.json", "tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json",
                "*.model", "*.jinja", "*.tiktoken")  # fmt: skip


def known_texts(before: str | Path, *others: str | Path) -> Iterator[bytes]:
    """The sources of fastunlearn (every key and sentence of what it writes), what it says of the machine, and of the
    model folder ``before`` the tokenizer, the configurations and the weights' names. ``others``: model folders of
    which the weights' names alone are taken: their files are searched themselves."""
    yield from package_texts()
    yield canonical(environment(1, deterministic=True))
    before = Path(before)
    for path in sorted({path for pattern in _MODEL_FILES for path in before.glob(pattern)}):
        if path.is_file() and path.suffix != ".safetensors":
            yield path.read_bytes()
    for folder in (before, *map(Path, others)):
        for path in sorted(folder.glob("*.safetensors")):
            yield canonical(_names(path))


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="np") as file:
            return [path.name, *file.keys()]
    except (SafetensorError, OSError) as error:
        from fastunlearn.errors import ModelFolderError

        raise ModelFolderError(f"{path} is cut short or damaged ({visible(error)})") from error


def known_as_saved(before: str | Path, *, trust_remote_code: bool = False) -> Iterator[bytes]:
    """Tokenizer and configuration of the model before as they are written beside a new model: newer versions of
    transformers spell them otherwise."""
    from transformers import AutoConfig

    from fastunlearn.storage import load_tokenizer

    config = AutoConfig.from_pretrained(str(before), local_files_only=True, trust_remote_code=trust_remote_code)
    with tempfile.TemporaryDirectory(prefix="fastunlearn-") as place:
        load_tokenizer(Path(before), trust_remote_code=trust_remote_code).save_pretrained(place)
        config.save_pretrained(place)
        for path in sorted(Path(place).rglob("*")):
            if path.is_file():
                yield path.read_bytes()
