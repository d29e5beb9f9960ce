"""Functions that draw at random make the loss random, so that it has no Hessian: they are refused.

Those that draw by name, also where their arguments are constants or a shape alone; every other one by the random
state that it leaves, which tells dropout of an LSTM in training from none in evaluation. Who hands over a generator=
answers for it: that may be seeded anew in each call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._recording import recording

from .names import names

__all__ = ["DRAWING", "RANDOM", "random_state", "refuse_draw", "refuse_random", "sampling"]

#: Functions whose result is a sample of the distribution that their argument is.
RANDOM = frozenset(("bernoulli", "multinomial"))
#: Functions that draw whatever their arguments are.
DRAWING = RANDOM | names(
    """rand randn randint randperm rand_like randn_like randint_like normal poisson binomial gumbel_softmax uniform_
    normal_ random_ bernoulli_ exponential_ cauchy_ log_normal_ geometric_"""
)


def refuse_draw(func: Callable, args: tuple, kwargs: dict) -> None:
    """Raises InvalidInputError for a function of ``DRAWING`` that has no generator of its own. First weights of a new
    module may be drawn: BigBird makes modules in its forward, and copies weights into them."""
    target = args[0] if args else kwargs.get("tensor")
    if kwargs.get("generator") is None and not isinstance(target, torch.nn.Parameter):
        _refuse(func)


def sampling(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """The rule of functions that sample."""
    _refuse(func)


def random_state(like: Tensor) -> list[Tensor]:
    """The state of the generators that a function on ``like`` may draw from; [] while a graph is recorded."""
    if recording(like):
        return []
    states = [torch.default_generator.get_state()]
    return [*states, torch.cuda.get_rng_state(like.device)] if like.is_cuda else states


def refuse_random(func: Callable, function: Callable, primals: list[Tensor], before: list[Tensor]) -> None:
    """Raises InvalidInputError where the state is no more that of ``before``, and ``function`` gives something else
    each time (threads have one generator in common, so that the state alone says little)."""
    if all(torch.equal(a, b) for a, b in zip(before, random_state(primals[0]), strict=True)):
        return
    first, second = ([y for y in function(primals) if isinstance(y, Tensor)] for _ in range(2))
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True)):
        _refuse(func)


def _refuse(func: Callable) -> None:
    raise InvalidInputError(
        f"model: {getattr(func, '__name__', func)} draws at random, so the loss is random and has no Hessian: call "
        f"model.eval(), draw before the pass, or give it a generator= that is seeded anew in each call"
    )
