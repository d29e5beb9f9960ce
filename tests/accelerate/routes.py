"""The ways in which tools take Hessian-vector products: each ``(f, parameters, vector) -> product``, f of tensors."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def double_backward(f, x, t):
    x = tuple(v.detach().requires_grad_() for v in x)
    first = torch.autograd.grad(f(*x), x, create_graph=True)
    return torch.autograd.grad(sum((a * b).sum() for a, b in zip(first, t, strict=True)), x)


def _gradient(f, x):
    return torch.func.grad(f, tuple(range(len(x))))


def jvp_of_grad(f, x, t):
    return torch.func.jvp(_gradient(f, x), x, t)[1]


def grad_of_jvp(f, x, t):
    return _gradient(lambda *a: torch.func.jvp(f, a, t)[1], x)(*x)


def forward_ad_then_reverse(f, x, t):
    x = tuple(v.detach().requires_grad_() for v in x)
    with forward_ad.dual_level():
        y = f(*(forward_ad.make_dual(a, b) for a, b in zip(x, t, strict=True)))
        return torch.autograd.grad(forward_ad.unpack_dual(y).tangent, x)


def vmap_of_jvp_of_grad(f, x, t):
    """Two vectors at once, of which the second is wanted."""
    many = tuple(torch.stack([-3 * v, v]) for v in t)
    return [v[1] for v in torch.func.vmap(lambda *a: torch.func.jvp(_gradient(f, x), x, a)[1])(*many)]


ROUTES = {
    route.__name__: route
    for route in (double_backward, jvp_of_grad, grad_of_jvp, forward_ad_then_reverse, vmap_of_jvp_of_grad)
}


def loss_of(model, *args, **kwargs):
    """The model's loss as a function of its parameters, and the parameters."""
    names = [name for name, _ in model.named_parameters()]

    def f(*values):
        found = torch.func.functional_call(model, dict(zip(names, values, strict=True)), args, kwargs)
        return found if isinstance(found, torch.Tensor) else found.loss

    return f, tuple(p.detach() for p in model.parameters())


def vector_for(x, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v.dtype) for v in x)


def error(got, truth):
    """Largest error over the largest entry."""
    largest = max(t.abs().max().item() for t in truth)
    return max((a.double() - b.double()).abs().max().item() for a, b in zip(got, truth, strict=True)) / largest
