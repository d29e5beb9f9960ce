"""Hessian-vector products of a model with fused attention by plain torch.func.

python examples/second_order/with_torch_func.py
"""

import torch
from _model import make, refusal

import fastunlearn as fu

model, batch = make()
names = [name for name, _ in model.named_parameters()]
weights = tuple(p.detach() for p in model.parameters())
vectors = tuple(torch.randn(2, *p.shape) for p in weights)


def loss(*values):
    return torch.func.functional_call(model, dict(zip(names, values, strict=True)), kwargs=batch).loss


gradient = torch.func.grad(loss, tuple(range(len(weights))))


def products():
    """Two vectors at once: forward mode over reverse mode, under vmap."""
    return torch.func.vmap(lambda *v: torch.func.jvp(gradient, weights, v)[1])(*vectors)


print("without accelerate:", refusal(products))
with fu.accelerate(model):
    found = products()
print("with accelerate: |Hv| =", [round(sum(h[k].square().sum() for h in found).sqrt().item(), 4) for k in range(2)])
first, second = (torch.cat([t[k].flatten() for t in vectors]) for k in range(2))
h_first, h_second = (torch.cat([t[k].flatten() for t in found]) for k in range(2))
off = (second @ h_first - first @ h_second).abs() / (first.norm() * h_second.norm())
print(f"symmetry: |u.Hv - v.Hu| / (|v| |Hu|) = {off.item():.0e}")
