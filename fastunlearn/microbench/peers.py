"""What else gives Hessian- and Gauss-Newton-vector products of a causal language model, each as it comes.

Every way is a function ``(model, batch, flat vector) -> flat product``. A way that raises is reported with its
message. Packages are those of the ``bench`` extra; none of their code is here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

__all__ = ["GGN", "HESSIAN", "gradient", "installed", "split"]


#: The module that a way needs, by the way's name; the others need PyTorch alone.
MODULES = {"curvlinops": "curvlinops", "pyhessian": "pyhessian", "hessian-eigenthings": "hessian_eigenthings"}


def installed(name: str) -> bool:
    """Whether the package of the way of that name is there."""
    return name not in MODULES or importlib.util.find_spec(MODULES[name]) is not None


def split(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The flat vector as views of the parameters' shapes."""
    pieces = vector.split([p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]


def gradient(model: nn.Module, batch: dict, _vector: Tensor) -> Tensor:
    """PyTorch's own first-order gradient."""
    return parameters_to_vector(torch.autograd.grad(model(**batch).loss, list(model.parameters())))


def double_backward(model: nn.Module, batch: dict, vector: Tensor) -> Tensor:
    parameters = list(model.parameters())
    grads = torch.autograd.grad(model(**batch).loss, parameters, create_graph=True)
    return parameters_to_vector(torch.autograd.grad(grads, parameters, split(vector, parameters)))


def jvp_of_grad(model: nn.Module, batch: dict, vector: Tensor) -> Tensor:
    names, parameters = zip(*model.named_parameters(), strict=True)
    pieces = split(vector, parameters)

    def loss(values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), kwargs=batch).loss

    product = torch.func.jvp(torch.func.grad(loss), (tuple(parameters),), (tuple(pieces),))[1]
    return parameters_to_vector(product)


def forward_then_reverse(model: nn.Module, batch: dict, vector: Tensor) -> Tensor:
    names, parameters = zip(*model.named_parameters(), strict=True)
    pieces = tuple(split(vector, parameters))

    def slope(values):
        def loss(inner):
            return torch.func.functional_call(model, dict(zip(names, inner, strict=True)), kwargs=batch).loss

        return torch.func.jvp(loss, (values,), (pieces,))[1]

    return parameters_to_vector(torch.func.grad(slope)(tuple(p.detach() for p in parameters)))


def central_differences(model: nn.Module, batch: dict, vector: Tensor) -> Tensor:
    """Inexact: two gradients at weights moved by 1e-3 of their norm along the vector."""
    parameters = list(model.parameters())
    pieces = split(vector, parameters)
    step = (1e-3 * parameters_to_vector(parameters).norm() / vector.norm()).item()

    def at(sign: float) -> Tensor:
        with torch.no_grad():
            torch._foreach_add_(parameters, pieces, alpha=sign * step)
        try:
            return gradient(model, batch, vector)
        finally:
            with torch.no_grad():
                torch._foreach_add_(parameters, pieces, alpha=-sign * step)

    return (at(1.0) - at(-1.0)) / (2 * step)


class _Logits(nn.Module):
    """A model that takes token ids alone and gives logits, as packages for classifiers want."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch):
        ids = batch["input_ids"] if isinstance(batch, dict) or hasattr(batch, "keys") else batch
        return self.model(input_ids=ids[:, :-1]).logits.flatten(0, 1)


def _classifier_data(batch: dict) -> tuple[Tensor, Tensor]:
    return batch["input_ids"], batch["labels"][:, 1:].flatten()


def _curvlinops(name: str) -> Callable:
    def product(model: nn.Module, batch: dict, vector: Tensor) -> Tensor:
        import curvlinops

        wrapped = _Logits(model)
        operator = getattr(curvlinops, name)(
            wrapped, nn.CrossEntropyLoss(), list(wrapped.parameters()), [_classifier_data(batch)],
            check_deterministic=False,
        )  # fmt: skip
        return operator @ vector

    return product


def pyhessian(model: nn.Module, batch: dict, vector: Tensor) -> Tensor:
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    found = hessian(_Logits(model), nn.CrossEntropyLoss(), data=_classifier_data(batch), cuda=False)
    product = hessian_vector_product(found.gradsH, found.params, split(vector, found.params))
    for parameter in found.params:
        parameter.grad = None
    return parameters_to_vector([piece.contiguous() for piece in product])


def eigenthings_hessian(model: nn.Module, batch: dict, vector: Tensor) -> Tensor:
    from hessian_eigenthings import HessianOperator, hf_lm_loss

    return HessianOperator(model, [batch], hf_lm_loss()).matvec(vector)


def eigenthings_ggn(model: nn.Module, batch: dict, vector: Tensor) -> Tensor:
    from hessian_eigenthings import GGNOperator, hf_lm_forward, hf_lm_loss_of_output

    return GGNOperator(model, [batch], hf_lm_forward(), hf_lm_loss_of_output()).matvec(vector)


#: Exact Hessian-vector products, and the attention that each gets: its best that works.
HESSIAN: dict[str, tuple[str, Callable]] = {
    "double backward": ("eager", double_backward),
    "double backward, SDPA": ("sdpa", double_backward),
    "torch.func jvp of grad": ("eager", jvp_of_grad),
    "torch.func grad of jvp": ("eager", forward_then_reverse),
    "curvlinops": ("eager", _curvlinops("HessianLinearOperator")),
    "pyhessian": ("eager", pyhessian),
    "hessian-eigenthings": ("eager", eigenthings_hessian),
}
#: Gauss-Newton-vector products.
GGN: dict[str, tuple[str, Callable]] = {
    "curvlinops": ("eager", _curvlinops("GGNLinearOperator")),
    "hessian-eigenthings": ("eager", eigenthings_ggn),
}
