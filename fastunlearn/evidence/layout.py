"""What lies where in an evidence folder.

    manifest.json       every other file with its size and SHA-256, end of the log, run, digests of the weights
    manifest.sig        Ed25519 over the bytes of manifest.json, as a line of hexadecimal text
    public.pem          the key to check it with (who owns it, the reader must know from elsewhere)
    log.jsonl           what happened, in order, chained by hashes
    requests.json       identifiers of the requests and salted hashes of the records
    models.json         digests of the weights before and after, by file and by tensor
    procedure.json      method, settings, seed, step norms, guard decisions, why it stopped
    metrics.json        measurements with intervals, attacks, reference; figures of every record under the model after
    configuration.json  as the user gave it
    environment.json    machine, versions, digests of the package's sources and kernels
    not_claimed.json    what none of this shows
    fields.json         a digest of every value in the JSON files, so that a check can say which one was changed
    openssf-model.sig   the model after, signed in OpenSSF model signing's format, where that package is installed
    openssf.sig         the files of this folder in the same format
"""

from __future__ import annotations

from .canonical import canonical, leaves, sha256

__all__ = [
    "DOCUMENTS", "FIELDS", "FORMAT", "LATE", "LOG", "MANIFEST", "OPENSSF", "OPENSSF_MODEL", "OWN", "PUBLIC_KEY",
    "SIGNATURE", "field_digests",
]  # fmt: skip

FORMAT = "fastunlearn-evidence-1"
MANIFEST, SIGNATURE, PUBLIC_KEY = "manifest.json", "manifest.sig", "public.pem"
LOG, FIELDS, OPENSSF, OPENSSF_MODEL = "log.jsonl", "fields.json", "openssf.sig", "openssf-model.sig"
#: What is written after the log was sealed.
LATE = (LOG, OPENSSF, OPENSSF_MODEL)
#: The JSON files of facts.
DOCUMENTS = ("requests.json", "models.json", "procedure.json", "metrics.json", "configuration.json", "environment.json",
             "not_claimed.json")  # fmt: skip
#: All names that the folder itself uses.
OWN = frozenset({MANIFEST, SIGNATURE, PUBLIC_KEY, FIELDS, *LATE, *DOCUMENTS})


def field_digests(document: object) -> dict[str, str]:
    """The first 64 bits of SHA-256 of every leaf, by JSON pointer: tells which value was changed. What protects
    against a forger is the digest of the whole file."""
    return {place: sha256(canonical(value))[:16] for place, value in leaves(document)}
