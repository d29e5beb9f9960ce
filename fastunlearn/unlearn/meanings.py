"""What every setting of a method means, in a sentence for the table of ``fastunlearn methods NAME``.

A name means the same in all methods that have it; the few that differ stand below by method. The docstrings of the
settings' classes say more.
"""

from __future__ import annotations

import dataclasses

from .method import Method

__all__ = ["Setting", "settings_of"]

_MEANINGS = {
    "steps": "At most so many steps.",
    "step_norm": "The longest step: L2 over all weights that may change.",
    "step_drift": "How far one step may move predictions on other records, nats per token; longer ones are halved.",
    "damping": "Added to the curvature's diagonal: the larger, the more alike all directions are taken.",
    "blocks": "Between which parts of the model curvature counts as zero; \"auto\" chooses by the memory.",
    "kind": "Labels of the curvature's gradients: the records' own (empirical) or drawn from the model (sampled).",
    "fisher_samples": "Retained records per Fisher; null: all.",
    "refresh": "For how many steps one Fisher serves.",
    "pull": "\"sum\" pulls all forget records alike, \"gauss-newton\" each as far as it needs.",
    "threshold": "Log-odds at which a token's pull has faded by half; null: as fade says.",
    "fade": "Where a token's pull fades: at the mean of unseen tokens, rank by rank of theirs, or between the two.",
    "enough": "What must be as on held-out records before it stops: accuracy and loss, or accuracy alone.",
    "kl_budget": "How far predictions on other records may move in all, nats per token; null: no guard.",
    "target_accuracy": "Stop at this forget accuracy; null: the original's on held-out records, else 0.1.",
    "target_loss": "Stop at this forget loss, nats per token; null: the original's on held-out records, else none.",
    "noise": "Standard deviation of the noise before it is shaped by the curvature.",
    "noise_floor": "Curvature below it counts as it, which bounds the noise where there is none.",
    "curvature": "\"ekfac\" corrects K-FAC's eigenvalues, \"kfac\" does not.",
    "exact_weight": "Weight of the retained records' exact Fisher beside EK-FAC; 0: none.",
    "products": "At most so many exact Gauss-Newton products to refine a step; 0: none.",
    "products_damping": "Added to the diagonal of the matrix of these products.",
    "rehearsals": "At most so many steps against relearning, after the others; 0: none.",
    "rehearsal_norm": "How far the weights move in a rehearsal, and at most in the step after it.",
    "rehearsal_drift": "How far such a step may move predictions on other records, nats per token.",
    "loss": "\"likelihood\" climbs the forget loss without end, \"log-odds\" descends the bounded pull.",
    "learning_rate": "Of the optimiser.",
    "gradients": "Budget: gradients of single records, in all.",
    "batch": "Forget records per step, and as many retained ones where the method uses them.",
    "check_every": "Steps between two looks at the forget accuracy.",
    "stop": "\"target\" stops when enough is forgotten; \"budget\" spends all, then takes the best look with enough.",
    "retain_weight": "Weight of the retained loss, against 1 for the forget loss.",
    "beta": "Inverse temperature of the preference loss.",
    "gamma": "Margin of the preference loss.",
    "objective": "What Sophia descends: gradient difference, or NPO with retained data.",
    "momentum": "Share of the old gradient mean that a step keeps.",
    "curvature_memory": "Share of the old curvature that an estimate keeps.",
    "curvature_every": "Steps between two estimates of the curvature.",
    "layer": "Whose output is steered, counted from 0; null: the one in the middle.",
    "scale": "Length to steer activations to, as a multiple of their own at the start.",
}
_OTHERWISE = {
    ("soul", "gamma"): "Times the curvature: what a step is divided by before it is clipped.",
    ("soul", "beta"): "Inverse temperature of NPO, where that is the objective.",
    ("kl-ascent", "retain_weight"): "Weight of the KL on retained records, against 1 for the forget loss.",
    ("rmu", "retain_weight"): "Weight of the retained records' activations, against 1 for the forget records'.",
    ("newton", "damping"): "Added to the curvature's diagonal: the larger, the shorter the step.",
    ("newton-steps", "damping"): "Added to the curvature's diagonal: the larger, the shorter the steps.",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of a method: its default there, the values that it takes in words, and its meaning ("" where a method
    that was entered by hand has a name of its own)."""

    name: str
    default: object
    values: str
    meaning: str


def settings_of(method: Method) -> list[Setting]:
    """The settings of ``method``, in their order; its ``preset`` counts as the default."""
    preset = dict(method.preset)
    return [
        Setting(
            one.name,
            preset.get(one.name, one.default),
            one.metadata.get("words", ""),
            _OTHERWISE.get((method.name, one.name), _MEANINGS.get(one.name, "")),
        )
        for one in dataclasses.fields(method.settings)
    ]
