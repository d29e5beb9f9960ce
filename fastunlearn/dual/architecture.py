"""What an engine can learn from a model's modules without knowing its architecture."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["output_weights"]


def output_weights(model: nn.Module) -> list[Tensor]:
    """Weights that may be those of an output layer: as the model says, or a linear layer as wide as a vocabulary."""
    found: list[Tensor] = []
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    sizes = {m.num_embeddings for m in embeddings}
    given = getattr(model, "get_output_embeddings", None)
    layer = given() if callable(given) else None
    if isinstance(getattr(layer, "weight", None), Tensor):
        found.append(layer.weight)
    found += [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m.out_features in sizes]
    found += [m.weight for m in embeddings]
    return found
