"""OpenUnlearning (github.com/locuslab/open-unlearning): our methods as its trainers, our scores as its metrics.

    python -m fastunlearn.integrations.openunlearning.run --checkout DIR --config-name=unlearn.yaml \
        trainer=FisherRemoval experiment=unlearn/tofu/default task_name=mine

It is run from a checkout, not from an installed package; the folders here hold the configurations, which hydra finds by
``hydra.searchpath=[pkg://fastunlearn.integrations.openunlearning]``. In code of one's own, with the checkout's ``src``
on the path: ``register()``, then its own ``train.main()``.
"""

from .sockets import Sockets, load_sockets

__all__ = ["Sockets", "load_sockets", "register"]


def register(sockets: Sockets | None = None) -> list[str]:
    """Puts trainers and metrics into OpenUnlearning's registries; their names.

    ``sockets``: what it offers to plug into (default: imported from the checkout that is on ``sys.path``).
    Raises InvalidInputError where there is none.
    """
    from .compat import adapt
    from .metrics import make_metrics
    from .trainers import make_trainers

    sockets = load_sockets() if sockets is None else sockets
    adapt(sockets)
    trainers, metrics = make_trainers(sockets), make_metrics(sockets)
    for trainer in trainers:
        sockets.register_trainer(trainer)
    for metric in metrics:
        sockets.register_metric(metric)
    return [trainer.__name__ for trainer in trainers] + [metric.name for metric in metrics]
