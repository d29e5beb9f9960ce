"""The table of attacks: what each does, where it comes from, what it needs, its settings and its function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastunlearn.audit.attacks import paraphrase, prefix, probe_answer, probe_membership, quantise, relearn, sample
from fastunlearn.audit.attacks.outcome import Outcome
from fastunlearn.audit.attacks.states import ProbeSettings
from fastunlearn.audit.attacks.target import Target

__all__ = ["ATTACKS", "Attack"]


def _nothing(target: Target) -> str | None:
    return None


@dataclass(frozen=True)
class Attack:
    """``run(target, settings)`` attacks a copy, or asks the model itself, and returns what came back; ``measures``: the
    names of what it measures, the main one first; ``missing(target)`` says in words what the attack needs and the
    target lacks, or None."""

    name: str
    summary: str
    measures: tuple[str, ...]
    source: str
    settings: type
    run: Callable[[Target, object], Outcome]
    missing: Callable[[Target], str | None] = _nothing


_RECALL = ("accuracy", "probability")
_ZHANG = "Zhang et al. 2025, arXiv 2410.16454"
_ALL = (
    Attack("relearn", "trains on 5 % of the forgotten records and measures the others", _RECALL,
           "Hu et al. 2025, arXiv 2406.13356", relearn.RelearnSettings, relearn.relearn, relearn.missing),
    Attack("quantise-int8", "rounds the weights of linear layers to int8, one scale per output channel", _RECALL,
           _ZHANG, quantise.ChannelSettings, quantise.quantise_int8),
    Attack("quantise-int4", "rounds them to int4, one scale per 64 weights", _RECALL,
           _ZHANG, quantise.BlockSettings, quantise.quantise_int4),
    Attack("quantise-nf4", "rounds them to NF4, one scale per 64 weights", _RECALL,
           f"{_ZHANG}; NF4: Dettmers et al. 2023, arXiv 2305.14314", quantise.BlockSettings, quantise.quantise_nf4),
    Attack("paraphrase", "asks in other words", (*_RECALL, "best_accuracy"),
           "Patil et al. 2024, arXiv 2309.17410", paraphrase.ParaphraseSettings, paraphrase.paraphrase,
           paraphrase.missing),
    Attack("prefix", "gives the first half of the answer", ("tokens", "exact"),
           "Carlini et al. 2023, arXiv 2202.07646", prefix.PrefixSettings, prefix.prefix, prefix.missing),
    Attack("sample", "draws 20 answers at temperature 1", ("exact", "rouge_l_recall"),
           "Reisizadeh et al. 2025, arXiv 2511.04934; Scholten et al. 2025, arXiv 2410.03523",
           sample.SampleSettings, sample.sample, sample.missing),
    Attack("probe-answer", "reads the answer off a hidden state with a logistic probe", ("accuracy",),
           "Patil et al. 2024, arXiv 2309.17410", ProbeSettings, probe_answer.probe_answer, probe_answer.missing),
    Attack("probe-membership", "tells forgotten from held-out records by a hidden state", ("auc",),
           "Alain & Bengio 2017, arXiv 1610.01644, for probes", ProbeSettings,
           probe_membership.probe_membership, probe_membership.missing),
)  # fmt: skip

#: Every attack by name.
ATTACKS: dict[str, Attack] = {attack.name: attack for attack in _ALL}
