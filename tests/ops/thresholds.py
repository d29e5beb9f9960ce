"""The error that each op may have: largest error of a matrix over its largest element, by accumulator dtype."""

import torch

#: ghost, formed and embedding Grams against float64. Sums of some thousand products; twenty times what is seen.
GRAM = {torch.float32: 5e-6, torch.float64: 1e-13}
