"""Requests one after the other on the same model: does what was forgotten stay so, and what remains of the rest?

Requests are of five sorts, in turn, so that later ones touch what earlier ones did:

    own      all facts of one person
    part     half of the facts of another
    rest     the other half of that person's
    fact     one fact each of several people
    again    records that an earlier request asked for already, and all facts of a person that it did not
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from fastunlearn.audit.divergence import ReferenceLogProbs, kl
from fastunlearn.audit.scores import token_scores
from fastunlearn.data import generate_people
from fastunlearn.data.encode import Encoded
from fastunlearn.data.people import PeopleData
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.unlearn import unlearn

__all__ = ["SORTS", "Asked", "Requests", "make_requests", "run_in_a_row"]

SORTS = ("own", "part", "rest", "fact", "again")
FACTS = 4
SHARING = 4  # people that a request for one fact goes over
_PEOPLE = {"own": 1, "part": 1, "rest": 0, "fact": SHARING, "again": 1}


@dataclass(frozen=True)
class Asked:
    """One request: its ``sort`` and ``records``; ``earlier``: how many of them were asked for before."""

    sort: str
    records: list[Record]
    earlier: int


@dataclass(frozen=True)
class Requests:
    """``people``: the data; its ``forget`` are the records of everybody who is asked for. ``asked``: the requests."""

    people: PeopleData
    asked: list[Asked]

    @property
    def kept(self) -> list[Record]:
        """What is learnt and never asked for."""
        gone = {record for one in self.asked for record in one.records}
        return [record for record in self.people.forget + self.people.retain if record not in gone]


def make_requests(count: int = 20, *, others: int = 40, held_out: int = 20, seed: int = 0) -> Requests:
    """``count`` requests (a multiple of 5) about invented people, among ``others`` whom nobody asks for."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 5 or count % len(SORTS):
        raise InvalidInputError(f"count={count!r} must be a multiple of {len(SORTS)}")
    rounds = count // len(SORTS)
    asked_for = rounds * sum(_PEOPLE.values())
    people = generate_people(
        asked_for + others, FACTS, forget_people=asked_for, held_out_people=held_out, canaries=0, seed=seed
    )
    records = people.forget
    persons = iter([records[i : i + FACTS] for i in range(0, len(records), FACTS)])
    asked: list[Asked] = []
    for turn in range(rounds):
        own, half = next(persons), next(persons)
        several = [next(persons) for _ in range(SHARING)]
        asked += [Asked("own", own, 0), Asked("part", half[: FACTS // 2], 0), Asked("rest", half[FACTS // 2 :], 0)]
        asked.append(Asked("fact", [person[turn % FACTS] for person in several], 0))
        again = asked[turn * len(SORTS)].records[:2]
        asked.append(Asked("again", again + next(persons), len(again)))
    return Requests(people, asked)


def _accuracy(model: nn.Module, samples: Sequence[Encoded], pad: int) -> float | None:
    return token_scores(model, samples, pad_token_id=pad).accuracy if samples else None


def run_in_a_row(
    model: nn.Module,
    requests: Sequence[Sequence[Encoded]],
    *,
    learnt: Sequence[Encoded],
    held_out: Sequence[Encoded],
    method: str,
    pad_token_id: int,
    reference: tuple[ReferenceLogProbs, Sequence[Encoded]] | None = None,
    fresh: Sequence[Encoded] = (),
    seed: int = 0,
    progress: Progress | None = None,
    on_request: Callable[[dict], None] | None = None,
    **settings,
) -> list[dict]:
    """Runs ``method`` once for each request, each from where the last one ended; ``model`` is changed in place.

    ``learnt``: all records that the model was trained on: those not asked for so far are the retained ones. The entry
    of each request, with accuracies as shares of target tokens: ``asked`` (this request's, before and after), ``gone``
    (all asked so far), ``to_come`` (asked for later only), ``kept`` (never asked for), ``kl_kept``: KL(reference ||
    model) on the records that come with the reference; ``kl_fresh``: KL(model at the start || model) on fresh records;
    gradients, seconds, why it stopped. Records are told apart by their tokens.
    """
    from fastunlearn.audit.divergence import reference_log_probs

    start = reference_log_probs(model, fresh, pad_token_id=pad_token_id) if fresh else None
    entries = []
    for entry in _each(
        model, requests, learnt, held_out, method, pad_token_id, seed, progress or NO_PROGRESS, settings
    ):
        if reference is not None:
            entry["kl_kept"] = kl(reference[0], model, reference[1], pad_token_id=pad_token_id)
        if start is not None:
            entry["kl_fresh"] = kl(start, model, fresh, pad_token_id=pad_token_id)
        entries.append(entry)
        if on_request is not None:
            on_request(entry)
    return entries


def _key(sample: Encoded) -> tuple[int, ...]:
    return tuple(sample.input_ids.tolist())


def _each(model, requests, learnt, held_out, method, pad, seed, progress, settings) -> Iterator[dict]:
    every = {_key(sample) for request in requests for sample in request}
    kept = [sample for sample in learnt if _key(sample) not in every]
    gone: dict[tuple, Encoded] = {}
    with progress.task(f"Requests, {method}", total=len(requests), unit="request") as task:
        for number, request in enumerate(requests):
            before = _accuracy(model, request, pad)
            gone |= {_key(sample): sample for sample in request}
            retain = [sample for sample in learnt if _key(sample) not in gone]
            result = unlearn(
                model, None, forget=list(request), retain=retain, held_out=list(held_out), method=method,
                seed=seed + number, progress=progress, **settings,
            )  # fmt: skip
            later = {_key(s): s for some in requests[number + 1 :] for s in some if _key(s) not in gone}
            yield {
                "request": number + 1, "records": len(request), "asked_before": before,
                "asked": _accuracy(model, request, pad), "gone": _accuracy(model, list(gone.values()), pad),
                "to_come": _accuracy(model, list(later.values()), pad), "kept": _accuracy(model, kept, pad),
                "gradients": result.gradients, "seconds": result.seconds, "stopped": result.stopped,
            }  # fmt: skip
            task.advance()
