"""curvlinops' Hessian of a model with fused attention.

    make peers     # in the checkout; leaves out what would bring another torch
    .venv/bin/python examples/second_order/with_curvlinops.py
"""

import torch
from _model import Logits, make, refusal
from curvlinops import HessianLinearOperator

import fastunlearn as fu

model, batch = make()
ids, labels = batch["input_ids"][:, :-1], batch["labels"][:, 1:].flatten()
wrapped = Logits(model)
parameters = list(wrapped.parameters())
vector = torch.randn(sum(p.numel() for p in parameters))


def product():
    operator = HessianLinearOperator(
        wrapped, torch.nn.CrossEntropyLoss(), parameters, [(ids, labels)], check_deterministic=False
    )
    return operator @ vector


print("without accelerate:", refusal(product))
with fu.accelerate(wrapped):
    print("with accelerate: |Hv| =", round(product().norm().item(), 4))
