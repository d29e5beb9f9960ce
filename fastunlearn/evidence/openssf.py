"""Signatures in the format of OpenSSF model signing (a Sigstore bundle over an in-toto statement), with a key of one's
own and no network. That project's own tool checks them too:

    model_signing verify key FOLDER --signature FOLDER/openssf.sig --public_key openssf-public.pem

Its keys are on NIST curves, so it has a second key beside the Ed25519 one (``fastunlearn keygen --openssf``).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from fastunlearn.errors import InvalidInputError, OutputError

from .keys import write_private

__all__ = ["PRIVATE", "PUBLIC", "available", "generate_openssf_key", "need", "sign_folder", "why_not"]

PRIVATE, PUBLIC = "openssf-private.pem", "openssf-public.pem"


def available() -> bool:
    """Whether the ``model-signing`` package is installed."""
    return importlib.util.find_spec("model_signing") is not None


def need():
    """The ``model_signing`` package. Raises InvalidInputError where it, or what it imports, is not installed (release
    1.1 imports pyOpenSSL without asking for it)."""
    try:
        if not available():
            raise ImportError("No module named 'model_signing'")
        import model_signing
    except ImportError as error:
        raise InvalidInputError(
            f"OpenSSF signatures need the model-signing package ({error}): pip install model-signing pyOpenSSL"
        ) from error
    return model_signing


def generate_openssf_key(folder: str | os.PathLike) -> Path:
    """Makes ``openssf-private.pem`` (mode 0600) and ``openssf-public.pem`` (curve P-256) in ``folder``. Raises
    OutputError where one is there."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from fastunlearn.storage.files import write_text

    folder = Path(folder)
    if (folder / PUBLIC).exists():
        raise OutputError(f"{folder / PUBLIC} is there already: keep it, or choose another folder")
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(folder / PRIVATE, private)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_text(folder / PUBLIC, public.decode("ascii"))
    return folder / PRIVATE


def sign_folder(folder: Path, signature: Path, key: str | os.PathLike, *, ignore: Sequence[str] = ()) -> bool:
    """Signs all files of ``folder`` but ``signature`` and those named in ``ignore``, with the OpenSSF key that lies
    beside the Ed25519 key ``key``. False, and nothing is written, where there is no such key or no package."""
    private = Path(key).resolve().parent / PRIVATE
    if not available() or not private.is_file():
        return False
    model_signing = need()
    hashing = model_signing.hashing.Config().set_ignored_paths(
        paths=[signature.name, *ignore], ignore_git_paths=False
    )
    try:
        model_signing.signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(hashing).sign(
            folder, signature
        )
    except ValueError as error:
        raise InvalidInputError(f"{private} cannot sign: {error}") from error
    return True


def why_not(folder: Path, signature: Path, public_key: str | os.PathLike) -> str:
    """Why the OpenSSF signature of ``folder`` does not hold with ``public_key``; "" where it holds."""
    model_signing = need()
    verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=Path(public_key))
    try:
        verifier.verify(folder, signature)
    except Exception as error:  # the package raises many kinds, InvalidSignature among them
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ""
