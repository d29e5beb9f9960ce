"""Invented prose: short scenes, put together from a small grammar. Nobody and nothing in it is real."""

from __future__ import annotations

import random

from ._set import pick

__all__ = ["headline", "passage", "sentence"]

def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_WHO = _words("baker sailor widow doctor painter farmer stranger teacher miller soldier poet clerk")
_HOW = _words("old young quiet tired proud clever lonely careful restless cheerful blind gentle")
_DID = _words("carried found lost watched painted sold mended hid counted stole buried remembered")
_WHAT = _words("lantern letter ring boat violin map clock key coat basket mirror candle bell ladder")
_COLOUR = _words("red green golden broken silver heavy ancient narrow borrowed wooden silent bitter")
_WHERE = _words("harbour mill orchard chapel market bridge tower garden valley station cellar meadow")
_WHEN = (
    "at dawn", "before the storm", "after the harvest", "on the third night", "in early spring", "at noon",
    "under a pale moon", "when the bells rang", "during the frost", "late in autumn", "by candlelight",
)  # fmt: skip
_FORMS = (
    "{when} the {how} {who} {did} the {colour} {what} near the {where}",
    "the {how} {who} of the {where} {did} a {colour} {what} {when}",
    "nobody at the {where} knew why the {who} {did} that {colour} {what}",
    "{when} a {colour} {what} was {did} by the {how} {who}",
    "near the {where} the {who} {did} the {what} and spoke of the {how} {other}",
)
_PLACES = _words("Oldwick Fennmoor Harrowmill Quillby Saltmere Thornley Brackwater Dunvale")
_FIRMS = _words("Altorix Bexamil Corvane Dynaflor Elmwright Fortuna Glimmer Hexacore")
_ACTS = (
    "cuts jobs", "opens a plant", "reports a loss", "buys a rival", "sues the mayor", "delays its launch",
    "raises prices", "moves its office", "hires a chief", "recalls a product",
)  # fmt: skip
_WHY = (
    "after a quiet quarter", "as costs climb", "despite a warning", "to calm investors", "following a vote",
    "amid talks with workers", "as rain floods the valley", "while rivals wait",
)  # fmt: skip


def sentence(stream: random.Random) -> str:
    """One sentence of a scene."""
    words = {
        "who": pick(stream, _WHO), "how": pick(stream, _HOW), "did": pick(stream, _DID), "what": pick(stream, _WHAT),
        "colour": pick(stream, _COLOUR), "where": pick(stream, _WHERE), "when": pick(stream, _WHEN),
        "other": pick(stream, _WHO),
    }  # fmt: skip
    text = pick(stream, _FORMS).format(**words)
    return text[0].upper() + text[1:] + "."


def passage(stream: random.Random, sentences: int) -> str:
    """Some sentences in a row."""
    return " ".join(sentence(stream) for _ in range(sentences))


def headline(stream: random.Random) -> tuple[str, str]:
    """The title and the text of an invented news item."""
    firm, place, act, why = (pick(stream, one) for one in (_FIRMS, _PLACES, _ACTS, _WHY))
    percent = 1 + int(stream.random() * 98)
    text = f"{firm} of {place} {act} {why}, with shares moving {percent} percent. {sentence(stream)}"
    return f"{firm} {act}", text
