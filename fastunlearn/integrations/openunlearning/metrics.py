"""Our scores as metrics that OpenUnlearning's evaluator calls: ``metric(model, data=, tokenizer=, batch_size=, ...)``.

Each returns ``agg_value``, and ``value_by_index`` by the index of the record in its data set.
"""

from __future__ import annotations

from typing import Any

from fastunlearn.audit.bootstrap import interval
from fastunlearn.audit.divergence import kl
from fastunlearn.audit.membership import auc
from fastunlearn.audit.scores import TokenScores, token_scores
from fastunlearn.errors import InvalidInputError
from fastunlearn.unlearn.request import pad_token

from .records import encoded, indexed
from .sockets import Sockets

__all__ = ["make_metrics"]


def _passes(model, kwargs: dict[str, Any]) -> dict[str, int]:
    return {"pad_token_id": pad_token(model, kwargs.get("tokenizer")), "batch_size": kwargs.get("batch_size", 32)}


def _one_set(kwargs: dict[str, Any], name: str):
    data = kwargs.get("data")
    if data is None or isinstance(data, dict):
        raise InvalidInputError(f"{name}: its configuration must name one data set under datasets")
    return data


def _scored(model, data, name: str, kwargs: dict[str, Any]) -> tuple[TokenScores, list[int]]:
    samples, places = indexed(data, name)
    return token_scores(model, samples, **_passes(model, kwargs)), places


def _by_index(places: list[int], values: list[dict]) -> dict[int, dict]:
    """One entry for each item; where an item has several answers, their means."""
    grouped: dict[int, list[dict]] = {}
    for place, value in zip(places, values, strict=True):
        grouped.setdefault(place, []).append(value)
    return {
        place: {name: sum(one[name] for one in group) / len(group) for name in group[0]}
        for place, group in grouped.items()
    }


def token_accuracy(model, **kwargs: Any) -> dict:
    """The share of target tokens that the model puts first, 0 to 1, over all tokens of the data set."""
    scores, places = _scored(model, _one_set(kwargs, "fastunlearn_token_accuracy"), "data", kwargs)
    counts = [0] * scores.samples
    right = [0] * scores.samples
    for sample, correct in zip(scores.sample.tolist(), scores.correct.tolist(), strict=True):
        counts[sample] += 1
        right[sample] += correct
    losses = scores.sample_losses.tolist()
    values = [{"accuracy": right[i] / counts[i], "avg_loss": losses[i]} for i in range(scores.samples)]
    return {"agg_value": scores.accuracy, "value_by_index": _by_index(places, values)}


def membership_auc(model, **kwargs: Any) -> dict:
    """AUC of telling the records of ``forget`` from those of ``holdout`` by their loss; 0.5: the loss tells nothing.

    With the ends of a bootstrap interval, ``low`` and ``high``, at ``level`` (default 0.95). 1 where every forget
    record is predicted better, as OpenUnlearning's own attacks have it.
    """
    data = kwargs.get("data")
    if not isinstance(data, dict) or not {"forget", "holdout"} <= set(data):
        raise InvalidInputError("fastunlearn_membership_auc: datasets must have the access keys forget and holdout")
    result, losses = {}, []
    for side in ("forget", "holdout"):
        scores, places = _scored(model, data[side], side, kwargs)
        losses.append(scores.sample_losses.numpy())
        values = [{"score": loss} for loss in losses[-1].tolist()]
        result[side] = {"agg_value": float(losses[-1].mean()), "value_by_index": _by_index(places, values)}
    value, low, high = interval(auc, *losses, level=kwargs.get("level", 0.95), seed=kwargs.get("seed", 0))
    return {"agg_value": value, "low": low, "high": high, **result}


def kl_to_reference(model, **kwargs: Any) -> dict:
    """KL(reference || model) in nats per target token; the reference is most often a model retrained without the
    forget records. ``reference_model_path``: its folder."""
    path = kwargs.get("reference_model_path")
    if not path:
        raise InvalidInputError("fastunlearn_kl: give reference_model_path, the folder of the retrained model")
    from transformers import AutoModelForCausalLM

    parameter = next(model.parameters())
    reference = AutoModelForCausalLM.from_pretrained(path, dtype=parameter.dtype).to(parameter.device)
    samples = encoded(_one_set(kwargs, "fastunlearn_kl"), "data")
    return {"agg_value": kl(reference, model, samples, **_passes(model, kwargs))}


def make_metrics(sockets: Sockets) -> list:
    """The metrics, made by OpenUnlearning's own decorator."""
    named = {
        "fastunlearn_token_accuracy": token_accuracy,
        "fastunlearn_membership_auc": membership_auc,
        "fastunlearn_kl": kl_to_reference,
    }
    return [sockets.unlearning_metric(name=name)(function) for name, function in named.items()]
