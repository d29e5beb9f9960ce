"""LowRankFisher's side of blocks with a fixed number of weights: the same calls as SampleSpaceFisher's."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.space import Form, Space

from .explicit import STORAGES, ExplicitFisher, StoredGradients

__all__ = ["FixedBlocksFisher"]


class FixedBlocksFisher:
    """F of ``gradients`` in blocks of ``width`` weights, side by side in the order of the flat vector. ``before``: the
    Fisher whose file at ``path`` this one's takes the place of, once all is done."""

    def __init__(
        self, gradients: SampleGradients, damping: float, *, width: int, space: Space, samples: int, signs: Tensor,
        storage: str, path: str | None, before: FixedBlocksFisher | None = None,
    ):  # fmt: skip
        if bool((signs < 0).any()):
            raise InvalidInputError("remove: with blocks of a fixed number of weights only their own samples can go")
        if len(gradients) != samples:
            raise InvalidInputError("kind='ggn' has no blocks of a fixed number of weights: use blocks='tensor'")
        self.gradients, self.space, self.samples = gradients, space, samples
        storage = storage or ("float64" if space.dtype == torch.float64 else "float32")
        if storage not in STORAGES:
            raise InvalidInputError(f"storage={storage!r} is unknown; use one of {', '.join(STORAGES)}")
        need = len(gradients) * space.size * STORAGES[storage].itemsize
        if path is None and need > gradients.memory_bytes:
            raise InvalidInputError(
                f"memory: the stored gradients of {len(gradients)} samples take {need / 1e9:.3g} GB and "
                f"{gradients.memory_bytes / 1e9:.3g} GB are allowed; raise memory, name a file in path, use "
                "storage='bfloat16' or 'int8', or blocks='tensor', which stores none"
            )
        own = None if before is None else before.explicit.stored
        stored = StoredGradients.of(gradients, width, publish=False, storage=storage, path=path, instead_of=own)
        gradients.forget_factors()
        try:
            self.explicit = ExplicitFisher(stored, damping, memory=gradients.memory_bytes)
            stored.publish()
        except BaseException:
            stored.close()
            raise

    @property
    def gram(self) -> Tensor:
        raise InvalidInputError("gram: with blocks of a fixed number of weights the Gram matrices are not kept")

    def _flat(self, v: dict[str, Tensor]) -> Tensor:
        return self.space.write(v, Form("flat", False)).to(self.explicit.stored.device)

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        return self.space.read(flat.to(self.gradients.device, self.space.dtype))[0]

    def solve_many(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._split(self.explicit.solve(self._flat(v)))

    def apply_many(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._split(self.explicit @ self._flat(v))

    def power_many(self, p: float, v: dict[str, Tensor], floor: float = 0.0) -> dict[str, Tensor]:
        return self._split(self.explicit.power(p, self._flat(v), floor))

    def solve_samples_many(self, c: Tensor) -> dict[str, Tensor]:
        each = c.T.to(self.explicit.stored.device)
        return self._split(torch.stack([self.explicit.solve_samples(one) for one in each], 1))

    def diagonal(self) -> dict[str, Tensor]:
        return {name: one[0] for name, one in self._split(self.explicit.diag()).items()}

    def logdet(self) -> float:
        return self.explicit.logdet()
