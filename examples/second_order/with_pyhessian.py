"""PyHessian on a model with fused attention: the trace by Hutchinson's estimator.

    make peers     # in the checkout; leaves out what would bring another torch
    .venv/bin/python examples/second_order/with_pyhessian.py
"""

import torch
from _model import Logits, make, refusal
from pyhessian import hessian

import fastunlearn as fu

model, batch = make()
data = batch["input_ids"][:, :-1], batch["labels"][:, 1:].flatten()
wrapped = Logits(model)


def trace():
    return hessian(wrapped, torch.nn.CrossEntropyLoss(), data=data, cuda=False).trace(maxIter=3)


print("without accelerate:", refusal(trace))
wrapped.zero_grad()
with fu.accelerate(wrapped):
    print("with accelerate: trace =", [round(value, 2) for value in trace()])
