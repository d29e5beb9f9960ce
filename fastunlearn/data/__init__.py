"""Records, how to load them, their tokens, and generated people to try things on."""

from fastunlearn.data.encode import IGNORE, Encoded, batches, collate, encode
from fastunlearn.data.loading import ANSWER, QUESTION, load_records
from fastunlearn.data.people import Canary, PeopleData, generate_people
from fastunlearn.data.records import Record
from fastunlearn.data.tokenizer import train_tokenizer
from fastunlearn.data.variants import Variants, load_variants, people_variants

__all__ = [
    "ANSWER",
    "IGNORE",
    "QUESTION",
    "Canary",
    "Encoded",
    "PeopleData",
    "Record",
    "Variants",
    "batches",
    "collate",
    "encode",
    "generate_people",
    "load_records",
    "load_variants",
    "people_variants",
    "train_tokenizer",
]
