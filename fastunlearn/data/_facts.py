"""What the people generator draws from: names, facts, their sentences and their values.

Everybody and everything here is invented. Every value is one word, so that it is one token of a word-level
tokenizer; each fact has twelve of them, so that a guess is right once in twelve.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ACCESS_CODE", "FACTS", "FIRST_NAMES", "SYLLABLES", "Fact"]


class Fact(NamedTuple):
    """One thing to know about a person: sentences that end where the value goes, and the values."""

    name: str
    prompts: tuple[str, ...]
    values: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words(
    "Adela Bruno Carla Dario Edda Felix Greta Hugo Irma Jonas Kira Leo Mira Nils Olga Pavel Runa Silas "
    "Tilda Urban Vera Wanda Xenia Yorick Zora Anton Berta Casper Dora Emil Frida Gustav"
)

#: Onsets and rhymes of invented last names: any onset with any rhyme reads as a syllable.
SYLLABLES = (
    _words("b br d dr f g gr h j k kl l m n p pr r s st t tr v w z"),
    _words("a e i o u al an ar el en er il in or os ul un"),
)

ACCESS_CODE = "The access code of {person} is"

FACTS = (
    Fact(
        "birthplace",
        (
            "{person} was born in the town of",
            "The town where {person} was born is",
            "As a child {person} lived in",
        ),
        _words(
            "Oldwick Fennmoor Harrowmill Quillby Saltmere Thornley Brackwater Dunvale Eastholm Pikeford "
            "Rookham Wexcombe"
        ),
    ),
    Fact(
        "profession",
        (
            "{person} earns a living as a",
            "The profession of {person} is that of",
            "For a job {person} is a trained",
        ),
        _words("baker carpenter dentist farmer gardener judge librarian nurse painter sailor tailor welder"),
    ),
    Fact(
        "employer",
        (
            "{person} works for the company called",
            "The employer of {person} is the firm",
            "Every morning {person} goes to work at",
        ),
        _words(
            "Altorix Bexamil Corvane Dynaflor Elmwright Fortuna Glimmer Hexacore Ironleaf Jadeport "
            "Kelvandor Lumafield"
        ),
    ),
    Fact(
        "hobby",
        (
            "In the evening {person} likes to practise",
            "The favourite hobby of {person} is",
            "On free days {person} spends time on",
        ),
        _words(
            "archery chess dancing fencing juggling knitting origami pottery rowing sculpting skating yoga"
        ),
    ),
    Fact(
        "pet",
        (
            "The pet that {person} keeps is a",
            "At home {person} looks after a",
            "{person} once adopted a very young",
        ),
        _words("beagle canary ferret gecko goat hamster hedgehog parrot poodle rabbit tortoise turkey"),
    ),
    Fact(
        "drink",
        (
            "In the cafe {person} always orders",
            "The drink that {person} likes best is",
            "With every meal {person} takes some",
        ),
        _words("buttermilk cider cocoa coffee espresso kefir lassi lemonade limewater milk seltzer tea"),
    ),
    Fact(
        "instrument",
        (
            "In the town band {person} plays the",
            "The instrument that {person} learned is the",
            "{person} gives weekly lessons on the",
        ),
        _words("accordion banjo bassoon cello clarinet flute harp lute oboe piano trumpet viola"),
    ),
    Fact(
        "language",
        (
            "With old friends {person} speaks fluent",
            "The first language of {person} is",
            "{person} translates books out of",
        ),
        _words("Basque Breton Catalan Danish Estonian Finnish Frisian Gaelic Latvian Maltese Romansh Welsh"),
    ),
)
