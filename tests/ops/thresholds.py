"""The error that each op may have: largest error of a matrix over its largest element, by accumulator dtype."""

import torch

#: ghost, formed and embedding Grams against float64. Sums of some thousand products; twenty times what is seen.
GRAM = {torch.float32: 5e-6, torch.float64: 1e-13}

#: Linear and linear + cross-entropy against float64 (inputs of the narrow dtype): first and second order alike.
#: bfloat16 and float16 results are rounded once (2^-9, 2^-12); their sums are in float32.
LINEAR = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 4e-3, torch.float16: 5e-4}

#: attention, dual forward and dual backward, each result against float64.
ATTENTION = {torch.float32: 1e-5, torch.float64: 1e-12}
