"""What OpenUnlearning offers to plug into, as one object: taken from its checkout, or given by a test."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fastunlearn.errors import InvalidInputError

__all__ = ["Sockets", "load_sockets"]


@dataclass(frozen=True)
class Sockets:
    """``unlearn_trainer``, ``finetune_trainer``: its base classes. ``trainer``: its module of that name, with the
    registry. ``register_trainer(cls)``, ``register_metric(metric)``: its registries. ``unlearning_metric(name=...)``:
    its decorator. ``get_datasets(cfgs, tokenizer=, template_args=)``: its maker of data sets."""

    unlearn_trainer: type
    finetune_trainer: type
    trainer: ModuleType
    register_trainer: Callable[[type], None]
    register_metric: Callable[[Any], None]
    unlearning_metric: Callable[..., Callable]
    get_datasets: Callable[..., Any]


def load_sockets() -> Sockets:
    """The sockets of the checkout whose ``src`` folder is on ``sys.path``. Raises InvalidInputError without one."""
    names = ("data", "evals.metrics", "evals.metrics.base", "trainer", "trainer.base", "trainer.unlearn.base")
    try:
        data, metrics, metric_base, trainer, base, unlearn_base = (importlib.import_module(name) for name in names)
    except ImportError as error:
        raise InvalidInputError(
            f"OpenUnlearning cannot be imported ({error}): put the src folder of its checkout on sys.path, or use "
            "`python -m fastunlearn.integrations.openunlearning.run --checkout DIR`; a package that it lacks is in "
            "its requirements.txt (its evaluator needs lm-eval)"
        ) from error
    return Sockets(
        unlearn_trainer=unlearn_base.UnlearnTrainer, finetune_trainer=base.FinetuneTrainer, trainer=trainer,
        register_trainer=trainer._register_trainer, register_metric=metrics._register_metric,
        unlearning_metric=metric_base.unlearning_metric, get_datasets=data.get_datasets,
    )  # fmt: skip
