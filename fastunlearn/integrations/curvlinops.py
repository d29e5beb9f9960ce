"""curvlinops' names and arguments over the dual pass: code written for it moves over by changing one import.

    from curvlinops import HessianLinearOperator                              # before
    from fastunlearn.integrations.curvlinops import HessianLinearOperator     # after

``model_func(X)`` gives predictions, ``loss_func(predictions, y)`` a scalar, data are pairs (X, y). curvlinops itself is
not needed. Its functions that ask only for products (traces, diagonals, spectra, submatrices) take these operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.curvature import CurvatureOperator
from fastunlearn.operators.ggn import GGN
from fastunlearn.operators.hessian import Hessian

__all__ = ["GGNLinearOperator", "HessianLinearOperator"]

_SAME = {"rtol": 5e-5, "atol": 1e-6}  # what counts as the same gradient in the check of determinism


class _Pairs:
    """Batches (X, y) as mappings; tensors go to the device, an X of another kind is the model's own business."""

    def __init__(self, data: Iterable, device: torch.device, sizes: Callable[[Any], int] | None) -> None:
        if iter(data) is data:
            raise InvalidInputError(f"data is a {type(data).__name__}, which can be walked only once: give list(data)")
        self.data, self.device, self.sizes = data, device, sizes

    def __iter__(self) -> Iterator[Mapping]:
        for i, pair in enumerate(self.data):
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise InvalidInputError(f"data[{i}] is a {type(pair).__name__}; it must be a pair (X, y)")
            x, y = pair
            if not isinstance(x, Tensor) and self.sizes is None:
                raise InvalidInputError(f"data[{i}][0] is a {type(x).__name__}: give batch_size_fn=, a function of it")
            size = x.shape[0] if self.sizes is None else self.sizes(x)
            yield {"X": x.to(self.device) if isinstance(x, Tensor) else x, "y": y.to(self.device), "size": size}


class _Curvlinops(CurvatureOperator):
    """The constructor of curvlinops' curvature operators, and what its functions ask of an operator."""

    def __init__(
        self,
        model_func: nn.Module,
        loss_func: Callable[[Any, Tensor], Tensor],
        params: Sequence[nn.Parameter],
        data: Iterable,
        progressbar: bool = False,
        check_deterministic: bool = True,
        num_data: int | None = None,
        block_sizes: Sequence[int] | None = None,
        batch_size_fn: Callable[[Any], int] | None = None,
    ) -> None:
        params = list(params)
        reduction = getattr(loss_func, "reduction", None)
        if reduction not in ("mean", "sum"):
            raise InvalidInputError(f"loss_func.reduction is {reduction!r}; it must be 'mean' or 'sum'")
        if block_sizes is not None and list(block_sizes) != [len(params)]:
            raise InvalidInputError("block_sizes: blocks are not supported; build one operator for each block's params")
        if not isinstance(model_func, nn.Module):
            raise InvalidInputError(f"model_func is a {type(model_func).__name__}; it must be a torch.nn.Module")
        if not params:
            raise InvalidInputError("params is empty: give the parameters of model_func")

        def loss(model: nn.Module, batch: Mapping) -> Tensor:
            return loss_func(model(batch["X"]), batch["y"])

        def share(batch: Mapping) -> float:
            return batch["size"] / num_data if num_data else batch["size"]

        super().__init__(
            model_func, _Pairs(data, params[0].device, batch_size_fn), loss, params, allow_unused=True,
            reduction="sum" if num_data else reduction, batch_weight=share if reduction == "mean" else None,
        )  # fmt: skip
        self.progressbar = progressbar  # taken, and not shown: a product has no inner steps worth a bar
        if check_deterministic:
            self._check()

    # What curvlinops' own functions read.
    @property
    def _in_shape(self) -> list[torch.Size]:
        return list(self.space.shapes.values())

    _out_shape = _in_shape

    def _matmat(self, columns: list[Tensor]) -> list[Tensor]:
        return self @ list(columns)

    def gradient_and_loss(self) -> tuple[list[Tensor], Tensor]:
        """The gradient of the loss over all data as a list, and that loss."""
        out, losses = self.space.zeros(1), []

        def step(part):
            result = self.walk.engine.gradient(part.batch, out, weight=part.factor)
            losses.append(result.loss * part.factor)
            return result

        with torch.no_grad():
            rest = self.walk.average(step)
            return [tensor[0] / rest for tensor in out.values()], (sum(losses) / rest).to(self.dtype)

    def _check(self) -> None:
        (first, loss), (second, again) = self.gradient_and_loss(), self.gradient_and_loss()
        same = [torch.allclose(a, b, **_SAME) for a, b in zip([*first, loss], [*second, again], strict=True)]
        if not all(same):
            raise InvalidInputError(
                "data or model_func: two passes over the data give different gradients (augmentation, drop_last with "
                "shuffle, random model): fix the randomness, or set check_deterministic=False"
            )


class HessianLinearOperator(_Curvlinops, Hessian):
    """The Hessian of ``c sum_n loss_func(model_func(x_n), y_n)``; c = 1/N for reduction 'mean', 1 for 'sum'."""


class GGNLinearOperator(_Curvlinops, GGN):
    """The Gauss-Newton matrix of the same loss; ``loss_func`` is CrossEntropyLoss or MSELoss."""
