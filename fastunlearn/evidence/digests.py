"""Digests of what a run works with: weights by tensor, files of a model folder, the package's sources and kernels."""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fastunlearn.errors import ModelFolderError

from .canonical import canonical, file_digest, sha256, unsafe_name, visible, walk

__all__ = [
    "code_digest", "folder_digest", "kernels_digest", "model_digest", "package_texts", "tensor_digests",
    "weights_digest",
]  # fmt: skip

_PACKAGE = Path(__file__).resolve().parents[1]


def folder_digest(folder: Path) -> dict[str, dict]:
    """``{"sha256", "bytes"}`` of every file below ``folder``, by its path there. A link is followed if it leads to a
    regular file (model folders of download caches are made of links). Raises ModelFolderError."""
    found = {}
    try:
        for name, entry in walk(folder):
            if entry.is_dir():
                if entry.is_symlink():
                    raise ModelFolderError(f"{folder} has a link to a folder, {visible(name)}: copy the model folder")
                continue
            digest, size = file_digest(Path(entry.path).resolve())
            found[name] = {"bytes": size, "sha256": digest}
    except OSError as error:
        if isinstance(error, ModelFolderError):
            raise
        raise ModelFolderError(f"model folder {folder} cannot be read: {error.strerror or error}") from error
    return found


def tensor_digests(path: Path) -> dict[str, str]:
    """A digest of every tensor of a safetensors file: SHA-256 of canonical JSON of dtype and shape, a NUL, and the
    bytes as stored (little-endian, row-major). Raises ModelFolderError for a file that safetensors refuses."""
    try:
        with safe_open(path, framework="np"):  # checks the header: offsets inside the file, no overlap, sizes that fit
            pass
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            (length,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8 : 8 + length])
            header.pop("__metadata__", None)
            return {name: _tensor(data, 8 + length, about) for name, about in header.items()}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelFolderError(f"{path} is cut short or damaged ({visible(error)})") from error


def _tensor(data: mmap.mmap, base: int, about: dict) -> str:
    start, end = about["data_offsets"]
    digest = hashlib.sha256(canonical([about["dtype"], about["shape"]]) + b"\0")
    with memoryview(data) as view, view[base + start : base + end] as part:
        digest.update(part)
    return digest.hexdigest()


def weights_digest(tensors: dict[str, str]) -> str:
    """One digest of all tensors, whatever files they are spread over: SHA-256 of canonical JSON of ``tensors``."""
    return sha256(canonical(tensors))


def model_digest(folder: str | Path) -> dict:
    """``files`` (:func:`folder_digest`), ``tensors`` (by name) and ``weights`` (one digest) of a model folder.

    Raises ModelFolderError: no such folder, no safetensors file, a damaged one, or one tensor in two files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelFolderError(f"model folder {folder} does not exist; give the path of a local folder")
    files = folder_digest(folder)
    tensors: dict[str, str] = {}
    for name in files:
        if not name.endswith(".safetensors") or "/" in name:
            continue
        found = tensor_digests(folder / name)
        twice = tensors.keys() & found.keys()
        if twice:
            raise ModelFolderError(f"{folder} has the weight {visible(min(twice))} in two files")
        tensors |= found
    if not tensors:
        raise ModelFolderError(f"{folder} holds no safetensors file, so there are no weights to take a digest of")
    return {"files": files, "tensors": tensors, "weights": weights_digest(tensors)}


def _package_files(suffixes: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in suffixes and path.is_file():
            name = path.relative_to(_PACKAGE).as_posix()
            if not unsafe_name(name):
                found[name] = file_digest(path.resolve())[0]
    return found


def package_texts() -> Iterator[bytes]:
    """The installed fastunlearn sources, file by file."""
    for name in _package_files((".py",)):
        yield (_PACKAGE / name).read_bytes()


def code_digest() -> dict:
    """The installed fastunlearn sources: ``files`` (SHA-256 by path in the package) and one ``digest`` of them."""
    files = _package_files((".py",))
    return {"digest": sha256(canonical(files)), "files": files}


def kernels_digest() -> dict:
    """The compiled parts of fastunlearn, as :func:`code_digest`; no files where it runs in plain PyTorch."""
    files = _package_files((".so", ".pyd"))
    return {"digest": sha256(canonical(files)), "files": files}
