"""hessian-eigenthings on a model with fused attention: the largest eigenvalue by power iteration.

    make peers     # in the checkout; leaves out what would bring another torch
    .venv/bin/python examples/second_order/with_hessian_eigenthings.py
"""

import torch
from _model import make, refusal
from hessian_eigenthings import HessianOperator, hf_lm_loss

import fastunlearn as fu

model, batch = make()
operator = HessianOperator(model, [batch], hf_lm_loss())
vector = torch.randn(sum(p.numel() for p in model.parameters()))

print("without accelerate:", refusal(lambda: operator.matvec(vector)))
with fu.accelerate(model):
    for _ in range(10):
        product = operator.matvec(vector)
        value = (vector @ product / (vector @ vector)).item()
        vector = (product / product.norm()).detach()
print("with accelerate: Rayleigh quotient after 10 steps =", round(value, 4))
