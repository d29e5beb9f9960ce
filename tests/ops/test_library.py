"""The registered operators pass torch.library.opcheck, and trace without being run."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.ops import library
from fastunlearn.ops.attention import AttentionSpec, dual_forward
from tests.ops.attention_cases import make_case
from tests.ops.linear_cases import head_case

OPS = torch.ops.fastunlearn
CHECKS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")


def draw(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)


def attention_arguments(dtype=torch.float32):
    c = make_case(queries=5, keys=7, size=8, heads=4, groups=2, count=2, dtype=dtype)
    return c, (c.q, c.k, c.v, c.qt, c.kt, c.vt)


def arguments() -> dict[str, tuple]:
    case, tensors = attention_arguments()
    forward = (*tensors, 0.3, True)
    results = OPS.attention_dual_forward(*forward)
    head = head_case(6, 8, 11, 2, dtype=torch.float32)
    x, xt, w, wt = draw(6, 8), draw(2, 6, 8), draw(8), draw(2, 8)
    weight, weight_t = draw(9, 8), draw(2, 9, 8)
    return {
        "attention_dual_forward": forward,
        "attention_dual_backward": (*tensors, *results, case.g, case.h, 0.3, True),
        "rms_norm_dual_forward": (x, xt, w, wt, 1e-6),
        "rms_norm_dual_backward": (x, xt, w, wt, x + 1, xt + 1, 1e-6),
        "gated_mlp_dual_forward": (x, x + 1, xt, xt + 1, "silu"),
        "gated_mlp_dual_backward": (x, x + 1, xt, xt + 1, x - 1, xt - 1, "silu"),
        "rope": (draw(2, 3, 4, 8), draw(4, 8), draw(4, 8)),
        "linear_dual_forward": (x, xt, weight, weight_t),
        "linear_dual_backward": (weight, weight_t, draw(6, 9), draw(2, 6, 9)),
        "linear_cross_entropy_hessian": (*head.tangents(), head.token_weights),
    }


@pytest.mark.parametrize("name", library.NAMES)
def test_opcheck(name):
    torch.library.opcheck(getattr(OPS, name), arguments()[name], test_utils=CHECKS)


def test_same_result_as_the_function():
    _, tensors = attention_arguments(torch.float64)
    mask = torch.rand(5, 7) > 0.2
    got = OPS.attention_dual_forward(*tensors, 0.3, mask=mask)
    want = dual_forward(*tensors, AttentionSpec(0.3, mask=mask))
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_traces_into_a_graph():
    """A program that is traced with unknown sizes holds the operator as one node, and computes the same."""
    from torch.fx.experimental.proxy_tensor import make_fx

    x, xt, w, wt = draw(6, 8), draw(2, 6, 8), draw(8), draw(2, 8)

    def program(x, xt, w, wt):
        return OPS.rms_norm_dual_forward(x * 2, xt, w, wt, 1e-6)

    graph = make_fx(program, tracing_mode="symbolic")(x, xt, w, wt)
    assert [n.target for n in graph.graph.nodes if "rms_norm" in str(n.target)]
    longer = (draw(9, 8), draw(2, 9, 8), w, wt)
    assert all(torch.equal(a, b) for a, b in zip(graph(*longer), program(*longer), strict=True))


def test_a_wrong_fake_kernel_is_found():
    library._register("negative_control(Tensor x) -> Tensor", lambda x: x + 1, lambda x: x.new_empty(3))
    library.NAMES.remove("negative_control")
    with pytest.raises(Exception, match=r"(?i)shape|size|stride"):
        torch.library.opcheck(OPS.negative_control, (draw(4),), test_utils=("test_faketensor",))
