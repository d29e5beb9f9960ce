"""Ed25519 keys (RFC 8032) as PEM files, signatures as text, and the fingerprint by which people tell keys apart."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from fastunlearn.errors import InvalidInputError, OutputError

from .canonical import read_regular, sha256

__all__ = [
    "PRIVATE", "PUBLIC", "fingerprint", "generate_key", "load_private", "load_public", "need", "public_pem", "sign",
    "signature_holds", "write_private",
]  # fmt: skip

PRIVATE, PUBLIC = "private.pem", "public.pem"
_MOST = 1 << 16


def need():
    """The two modules of ``cryptography`` that are used. Raises InvalidInputError where it is not installed."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise InvalidInputError("signatures need the cryptography package: pip install cryptography") from None
    return serialization, ed25519


def write_private(path: Path, data: bytes) -> None:
    """Writes a new file that only its owner can read, whole or not at all. Raises OutputError where it is there
    already or cannot be written."""
    if os.path.lexists(path):
        raise OutputError(f"{path} is there already: keep it, or choose another place")
    from fastunlearn.storage.files import staged_file

    with staged_file(path, needed=len(data), mode=0o600) as file:
        file.write_bytes(data)


def generate_key(folder: str | os.PathLike) -> Path:
    """Makes a key pair in ``folder``: ``private.pem`` (mode 0600, not encrypted: guard the file) and ``public.pem``.

    Returns the path of the private key. Raises OutputError where one is there already.
    """
    serialization, ed25519 = need()
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OutputError(f"{folder} could not be made: {error.strerror or error}") from error
    if (folder / PUBLIC).exists():
        raise OutputError(f"{folder / PUBLIC} is there already: keep it, or choose another folder")
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(folder / PRIVATE, private)
    from fastunlearn.storage.files import write_text

    write_text(folder / PUBLIC, public_pem(key).decode("ascii"))
    return folder / PRIVATE


def _read(path: str | os.PathLike, what: str) -> bytes:
    try:
        return read_regular(path, _MOST)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInputError(f"{what} {path} cannot be read ({reason}); `fastunlearn keygen` makes one") from error


def load_private(path: str | os.PathLike):
    """The Ed25519 private key of a PEM file. Raises InvalidInputError: no such key, or one that others can read."""
    serialization, ed25519 = need()
    data = _read(path, "key")
    if os.name != "nt" and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        raise InvalidInputError(f"key {path} can be read by others: make it yours alone with chmod 600")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"key {path} is no unencrypted private key in PEM ({error})") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InvalidInputError(f"key {path} is no Ed25519 key; make one with `fastunlearn keygen`")
    return key


def load_public(source: str | os.PathLike | bytes):
    """The Ed25519 public key of a PEM file, or of its bytes. Raises InvalidInputError."""
    serialization, ed25519 = need()
    data = source if isinstance(source, bytes) else _read(source, "public key")
    name = "the public key" if isinstance(source, bytes) else f"public key {source}"
    try:
        key = serialization.load_pem_public_key(data)
    except Exception as error:  # cryptography raises several kinds for what is no key
        raise InvalidInputError(f"{name} is no public key in PEM") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise InvalidInputError(f"{name} is no Ed25519 key")
    return key


def public_pem(key) -> bytes:
    """The public half of a private key (or a public key) as PEM."""
    serialization, _ = need()
    public = key.public_key() if hasattr(key, "public_key") else key
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key) -> str:
    """SHA-256 (hexadecimal) of the public key in DER, in groups of eight: what people compare by telephone."""
    serialization, _ = need()
    public = key.public_key() if hasattr(key, "public_key") else key
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return " ".join(re.findall(".{8}", sha256(der)))


def sign(key, data: bytes) -> bytes:
    """The signature of ``data`` as a line of hexadecimal text."""
    return key.sign(data).hex().encode("ascii") + b"\n"


def signature_holds(public, signature: bytes, data: bytes) -> bool:
    """Whether ``signature`` is what :func:`sign` wrote for ``data``, to the byte (no second spelling counts)."""
    from cryptography.exceptions import InvalidSignature

    if not re.fullmatch(rb"[0-9a-f]{128}\n", signature):
        return False
    try:
        public.verify(bytes.fromhex(signature[:-1].decode("ascii")), data)
    except InvalidSignature:
        return False
    return True
