"""K-FAC and EK-FAC against dense Kronecker products on tiny models."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.sources import LinearSource
from fastunlearn.solve import KFAC
from tests.operators.sampling import make_samples
from tests.solve.test_low_rank_fisher import error

DAMPING = 1e-2


@pytest.fixture(params=["gpt2", "llama"])
def gradients(request, tiny_gpt2, tiny_llama):
    model = tiny_gpt2(layers=1, tied=False) if request.param == "gpt2" else tiny_llama(layers=1)
    return SampleGradients(model, make_samples((5, 9, 3, 7)), pad_token_id=0)


def vector(gradients):
    return {name: torch.randn(p.shape, dtype=p.dtype) for name, p in gradients.parameters.items()}


def dense_kronecker(source: LinearSource, m: int) -> torch.Tensor:
    """The Fisher block of a weight as stored, row-major, by torch.kron."""
    a, b = source.x.double(), source.g.double()
    a, b = a.T @ a / len(a), b.T @ b / m
    return torch.kron(a, b) if source.transposed else torch.kron(b, a)


def test_kfac_is_the_dense_kronecker_product(gradients):
    found, v = KFAC(gradients, DAMPING), vector(gradients)
    product, solved, root, logdet = found.apply(v), found.solve(v), found.power(-0.25, v), 0.0
    for name, sources in gradients.passes():
        rows = torch.cat([s.tile(0, v[name].shape[0], v[name].shape) for s in sources])
        if isinstance(sources[0], LinearSource):
            truth = dense_kronecker(sources[0], len(gradients))
        else:
            truth = torch.diag(rows.square().mean(0))
        truth = truth + DAMPING * torch.eye(len(truth), dtype=truth.dtype)
        flat = v[name].flatten()
        assert error(product[name].flatten(), truth @ flat) <= 1e-9
        assert error(solved[name].flatten(), torch.linalg.solve(truth, flat)) <= 1e-9
        s, q = torch.linalg.eigh(truth)
        assert error(root[name].flatten(), q @ (s**-0.25 * (q.T @ flat))) <= 1e-9
        logdet += torch.linalg.slogdet(truth)[1].item()
    assert abs(found.logdet() - logdet) <= 1e-9 * abs(logdet)


def test_ekfac_has_the_samples_own_second_moments_and_is_closer(gradients):
    plain, better = KFAC(gradients, DAMPING), KFAC(gradients, DAMPING, corrected=True)
    for name, sources in gradients.passes():
        if not isinstance(sources[0], LinearSource):
            continue
        shape = gradients.parameters[name].shape
        rows = sources[0].tile(0, shape[0], shape)
        left, right = better._bases[name]
        turned = torch.einsum("ai,mab,bj->mij", left, rows.view(-1, *shape), right)
        assert error(better._moments[name], turned.square().mean(0)) <= 1e-9
        exact = rows.T @ rows / len(rows)
        q = torch.kron(left, right)

        def gap(fisher, name=name, q=q, exact=exact):
            return ((q * fisher._moments[name].flatten()) @ q.T - exact).norm()

        assert gap(better) < gap(plain)  # the best diagonal in that basis


def test_bad_input(gradients):
    with pytest.raises(InvalidInputError, match="damping=0"):
        KFAC(gradients, 0)
    with pytest.raises(InvalidInputError, match="v must be a dict"):
        KFAC(gradients, 1.0).solve({})
