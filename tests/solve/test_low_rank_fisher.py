"""fu.LowRankFisher: every block kind and model against dense float64, up- and down-dates, files, bad input."""

from __future__ import annotations

import pytest
import torch

import fastunlearn as fu
from fastunlearn.data.encode import collate
from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError, OutputError
from fastunlearn.operators.budget import plan_bytes
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.samples import to_samples
from tests.operators.sampling import make_samples, true_gradients
from tests.operators.test_sample_gradients import _Odd

LENGTHS = (5, 9, 3, 7, 6, 8, 4, 10)
SMALL = {"n_embd": 4, "n_head": 1, "n_positions": 12}


def error(got, truth) -> float:
    return ((got.double() - truth).norm() / truth.norm()).item()


def samples():
    return make_samples(LENGTHS)


def dense(g, damping, count=None):
    return damping * torch.eye(g.shape[1], dtype=g.dtype) + g.T @ g / (count or len(g))


def masked(fisher, matrix):
    """The matrix with zeros between the blocks of ``fisher``."""
    owner = [fisher.blocks.of[name] for name, p in fisher.parameters.items() for _ in range(p.numel())]
    block = torch.tensor(owner)
    return torch.where(block[:, None] == block[None, :], matrix, 0)


@pytest.fixture(params=["gpt2", "gpt2-untied", "odd"])
def model(request, tiny_gpt2):
    """Tied and untied Conv1D models, and one whose parameters have no rule: all float64 throughout."""
    if request.param == "odd":
        return _Odd().double()
    return tiny_gpt2(layers=1, tied=request.param == "gpt2", **SMALL)


@pytest.mark.parametrize("blocks", ["model", "layer", "tensor"])
def test_everything_against_the_dense_matrix(model, blocks):
    fisher = fu.LowRankFisher(model, samples(), 1e-3, blocks=blocks, batch_size=3)
    g = true_gradients(model, samples())
    truth = masked(fisher, dense(g, 1e-3))
    v, c = torch.randn(g.shape[1], dtype=torch.float64), torch.randn(len(g), dtype=torch.float64)
    assert error(fisher @ v, truth @ v) <= 1e-9
    assert error(fisher.solve(v), torch.linalg.solve(truth, v)) <= 1e-9
    assert error(fisher.solve_samples(c), torch.linalg.solve(truth, g.T @ c)) <= 1e-9
    assert error(fisher.diag(), truth.diagonal()) <= 1e-9
    assert abs(fisher.logdet() - torch.linalg.slogdet(truth)[1].item()) <= 1e-9 * abs(fisher.logdet())
    s, q = torch.linalg.eigh(truth)
    for p in (-0.25, -1.0, 0.5, 2):
        assert error(fisher.power(p, v), q @ (s**p * (q.T @ v))) <= 1e-9
    assert error(fisher.power(-0.25, v, floor=0.1), q @ (s.clamp_min(0.1) ** -0.25 * (q.T @ v))) <= 1e-9


@pytest.mark.parametrize("damping", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_push_through_keeps_the_digits_of_float32(tiny_gpt2, damping):
    shape = {"layers": 1, "n_embd": 8}
    wide, narrow = tiny_gpt2(**shape), tiny_gpt2(torch.float32, **shape)
    narrow.load_state_dict(wide.state_dict())
    wide.load_state_dict(narrow.state_dict())
    g = true_gradients(wide, samples())
    c = torch.randn(len(g), dtype=torch.float64)
    for blocks in ("model", "layer", "tensor"):
        fisher = fu.LowRankFisher(narrow, samples(), damping, blocks=blocks)
        truth = torch.linalg.solve(masked(fisher, dense(g, damping)), g.T @ c)
        got = fisher.solve_samples(c)
        if blocks == "tensor":
            # A bias is a block with about as few weights as there are samples: an ill-conditioned least-squares
            # problem for any way to solve it, where rounding in G itself is magnified by 1 / damping (see the next).
            matrices = torch.cat([torch.full((p.numel(),), p.dim() > 1) for p in narrow.parameters()])
            got, truth = got[matrices], truth[matrices]
        assert error(got, truth) <= 1e-6


@pytest.mark.parametrize("damping", [1e-1, 1e-6])
def test_float64_gradients_of_a_float32_model_keep_the_digits_of_every_block(tiny_gpt2, damping):
    shape = {"layers": 1, "n_embd": 8}
    wide, narrow = tiny_gpt2(**shape), tiny_gpt2(torch.float32, **shape)
    narrow.load_state_dict(wide.state_dict())
    wide.load_state_dict(narrow.state_dict())
    before = {name: p.detach().clone() for name, p in narrow.named_parameters()}
    g = true_gradients(wide, samples())
    c = torch.randn(len(g), dtype=torch.float64)
    for blocks in ("model", "tensor", 64):
        fisher = fu.LowRankFisher(narrow, samples(), damping, blocks=blocks, precision="float64")
        if blocks == 64:
            owner = torch.arange(g.shape[1]) // 64
            matrix = torch.where(owner[:, None] == owner[None, :], dense(g, damping), 0)
        else:
            matrix = masked(fisher, dense(g, damping))
        truth = torch.linalg.solve(matrix, g.T @ c)
        assert error(fisher.solve_samples(c), truth) <= 1e-6
        assert fisher.dtype == torch.float64
        v = torch.randn(g.shape[1])
        assert error(fisher.solve(v), torch.linalg.solve(matrix, v.double())) <= 1e-6
    for name, p in narrow.named_parameters():
        assert p.dtype == torch.float32 and torch.equal(p, before[name])
    plain = fu.LowRankFisher(narrow, samples(), damping, blocks="tensor")
    if damping == 1e-6:  # the test can tell the two apart
        assert error(plain.solve_samples(c), torch.linalg.solve(masked(plain, dense(g, damping)), g.T @ c)) > 2e-6


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("memory", ["1GB", "200KB"])
def test_captures_in_bfloat16_have_the_error_that_is_stated(tiny_llama, tied, memory):
    model, some = tiny_llama(torch.float32, tied=tied), make_samples(LENGTHS * 2)
    exact = fu.LowRankFisher(model, some, 1e-1, batch_size=2)
    short = fu.LowRankFisher(model, some, 1e-1, batch_size=2, precision="bfloat16", memory=memory)
    assert 1e-7 < error(short.gram, exact.gram) <= 3e-3
    c = torch.linspace(-1, 1, len(some))
    assert error(short.solve_samples(c), exact.solve_samples(c).double()) <= 1e-2
    whole, half = (sum(map(f._fisher.gradients.bytes_of, f.parameters)) for f in (exact, short))
    assert half < 0.6 * whole
    with pytest.raises(InvalidInputError, match="precision='bfloat16'"):
        fu.LowRankFisher(tiny_llama(), some, 1e-1, precision="bfloat16")


@pytest.mark.parametrize("memory", [180_000, 200_000, 10**6])
def test_the_plan_keeps_to_the_memory(tiny_llama, memory):
    gradients = SampleGradients(tiny_llama(), samples(), pad_token_id=0, memory=memory, batch_size=1)
    walked = sum(map(gradients.bytes_of, gradients.parameters)) > memory // 2
    assert walked == (memory < 10**6) and 0 < plan_bytes(gradients) <= memory
    more = SampleGradients(tiny_llama(), samples(), pad_token_id=0, memory=memory, batch_size=2)
    assert plan_bytes(more) >= plan_bytes(gradients) or walked
    with pytest.raises(InvalidInputError, match=r"raise memory \(here by a factor of [1-9]"):
        gradients.walk(40_000)


def test_forms_and_several_vectors(tiny_gpt2):
    model = tiny_gpt2(layers=1)
    fisher = fu.LowRankFisher(model, samples(), 1e-2, blocks="layer")
    v = torch.randn(fisher.shape[0], 3, dtype=torch.float64)
    many = fisher.solve(v)
    flat = [fisher.solve(v[:, j]) for j in range(3)]
    assert error(many, torch.stack(flat, 1)) <= 1e-12
    sizes = [p.numel() for p in model.parameters()]
    parts = [one.view_as(p) for one, p in zip(v[:, 0].split(sizes), model.parameters(), strict=True)]
    as_dict = fisher.solve(dict(zip(fisher.parameters, parts, strict=True)))
    as_list = fisher.solve(parts)
    assert list(as_dict) == list(fisher.parameters) and isinstance(as_list, list)
    assert torch.equal(torch.cat([t.flatten() for t in as_dict.values()]), flat[0])
    assert torch.equal(torch.cat([t.flatten() for t in as_list]), flat[0])
    c = torch.randn(len(LENGTHS), 2, dtype=torch.float64)
    assert error(fisher.solve_samples(c)[:, 1], fisher.solve_samples(c[:, 1])) <= 1e-12


def test_chosen_parameters_only(tiny_gpt2):
    model = tiny_gpt2(layers=2)
    names = [name for name, _ in model.named_parameters() if "h.1.mlp" in name]
    fisher = fu.LowRankFisher(model, samples(), 1e-2, params=["*h.1.mlp*"])
    g = true_gradients(model, samples(), names)
    v = torch.randn(g.shape[1], dtype=torch.float64)
    assert error(fisher.solve(v), torch.linalg.solve(dense(g, 1e-2), v)) <= 1e-9


def test_batches_as_the_model_takes_them(tiny_llama):
    """Right padding, left padding with a mask, several batches: the samples' own gradients, whatever the padding."""
    model, some = tiny_llama(torch.float32, attention="sdpa"), make_samples((5, 9, 3))
    truth = fu.LowRankFisher(model, some, 1e-2)
    right = collate(some, pad_token_id=0)
    got = fu.LowRankFisher(model, [right], 1e-2)
    assert torch.allclose(got.gram, truth.gram, rtol=1e-4)
    one_by_one = [collate([s], pad_token_id=0) for s in some]
    assert torch.allclose(fu.LowRankFisher(model, one_by_one, 1e-2).gram, truth.gram, rtol=1e-4)
    left = {name: torch.stack([row.roll(9 - n) for row, n in zip(t, (5, 9, 3), strict=True)])
            for name, t in right.items()}  # fmt: skip
    left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp_min(0)
    assert torch.allclose(fu.LowRankFisher(model, left, 1e-2).gram, truth.gram, rtol=1e-4)
    assert [s.input_ids.numel() for s in to_samples(right)] == [5, 9, 3]


def dense_gauss_newton(model, some):
    """Sum over samples of J^T H J, by autograd's Jacobian of the target logits."""
    parameters = dict(model.named_parameters())
    total = 0
    for sample in some:
        def logits(values, sample=sample):
            found = torch.func.functional_call(model, values, (sample.input_ids[None],))
            return found.logits[0, :-1][sample.labels[1:] != -100]

        jacobian = torch.func.jacrev(logits)({n: p.detach() for n, p in parameters.items()})
        rows = torch.cat([j.flatten(2) for j in jacobian.values()], 2)
        p = logits(parameters).detach().softmax(1)
        hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        total = total + torch.einsum("tvi,tvw,twj->ij", rows, hessian, rows)
    return total


def test_exact_gauss_newton(tiny_gpt2):
    model, some = tiny_gpt2(layers=1, **SMALL), make_samples((4, 5, 3))
    fisher = fu.LowRankFisher(model, some, 1e-2, kind="ggn")
    truth = dense_gauss_newton(model, some) / 3
    truth += 1e-2 * torch.eye(len(truth), dtype=truth.dtype)
    v = torch.randn(len(truth), dtype=torch.float64)
    assert error(fisher @ v, truth @ v) <= 1e-9
    assert error(fisher.solve(v), torch.linalg.solve(truth, v)) <= 1e-9
    fisher.remove(some[:1])
    left = dense_gauss_newton(model, some[1:]) / 2 + 1e-2 * torch.eye(len(truth), dtype=truth.dtype)
    assert fisher.samples == 2 and error(fisher.solve(v), torch.linalg.solve(left, v)) <= 1e-9
    with pytest.raises(InvalidInputError, match="use solve"):
        fisher.solve_samples(torch.ones(3))


def test_sampled_labels_approach_the_gauss_newton_matrix(tiny_gpt2):
    model, some = tiny_gpt2(layers=1, **SMALL), make_samples((4, 5, 3))
    truth = fu.LowRankFisher(model, some, 1e-9, kind="ggn").diag()
    drawn = [fu.LowRankFisher(model, some * 40, 1e-9, kind="sampled", seed=seed).diag() for seed in range(2)]
    assert not torch.equal(*drawn)
    assert error(sum(drawn) / 2, truth) <= 0.2


def test_add_and_remove_are_the_fisher_of_what_is_left(tiny_gpt2):
    model = tiny_gpt2()
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for blocks in ("model", "tensor"):
        fisher = fu.LowRankFisher(model, samples()[:5], 1e-3, blocks=blocks)
        fisher.add(samples()[5:])
        truth = fu.LowRankFisher(model, samples(), 1e-3, blocks=blocks)
        assert fisher.samples == 8 and torch.allclose(fisher.gram, truth.gram, rtol=1e-9)
        fisher.remove([samples()[6], samples()[1]])
        left = [s for i, s in enumerate(samples()) if i not in (1, 6)]
        truth = fu.LowRankFisher(model, left, 1e-3, blocks=blocks)
        assert fisher.samples == 6 and error(fisher.solve(v), truth.solve(v)) <= 1e-9
        c = torch.randn(6, dtype=torch.float64)
        assert error(fisher.solve_samples(c), truth.solve_samples(c)) <= 1e-9


def test_a_sample_that_is_there_twice_goes_once(tiny_gpt2):
    model = tiny_gpt2(layers=1)
    fisher = fu.LowRankFisher(model, [*samples(), samples()[2]], 1e-3)
    fisher.remove([samples()[2]])
    v = torch.randn(fisher.shape[0], dtype=torch.float64)
    assert error(fisher.solve(v), fu.LowRankFisher(model, samples(), 1e-3).solve(v)) <= 1e-9


def test_removing_strangers_subtracts_their_curvature_or_refuses(tiny_gpt2):
    model = tiny_gpt2(layers=1, **SMALL)
    strangers = make_samples((4, 6), seed=5)
    g, j = true_gradients(model, samples()), true_gradients(model, strangers)
    fisher = fu.LowRankFisher(model, samples(), 50.0)
    fisher.remove(strangers)
    truth = 50.0 * torch.eye(g.shape[1], dtype=g.dtype) + (g.T @ g - j.T @ j) / 6
    s, q = torch.linalg.eigh(truth)
    assert s[0] < 50.0 - 1e-6  # otherwise nothing was subtracted
    v, c = torch.randn(g.shape[1], dtype=torch.float64), torch.randn(10, dtype=torch.float64)
    rows = torch.cat([g, j])
    assert error(fisher @ v, truth @ v) <= 1e-9
    assert error(fisher.solve(v), torch.linalg.solve(truth, v)) <= 1e-9
    assert error(fisher.solve_samples(c), torch.linalg.solve(truth, rows.T @ c)) <= 1e-9
    assert error(fisher.power(-0.25, v), q @ (s**-0.25 * (q.T @ v))) <= 1e-9
    assert abs(fisher.logdet() - s.log().sum().item()) <= 1e-9 * abs(fisher.logdet())
    assert error(fisher.diag(), truth.diagonal()) <= 1e-9

    small = fu.LowRankFisher(model, samples(), 1e-3)
    before = small.solve(v)
    with pytest.raises(NotPositiveDefiniteError, match="their curvature was not part of it"):
        small.remove(strangers)
    with pytest.raises(NotPositiveDefiniteError, match="nothing is left"):
        small.remove(samples())
    assert torch.equal(small.solve(v), before)


def test_saved_and_loaded(tiny_gpt2, tmp_path):
    model, path = tiny_gpt2(layers=1), tmp_path / "fisher.safetensors"
    fisher = fu.LowRankFisher(model, samples(), 1e-3, blocks="layer", kind="sampled", params=["*h.0*", "*wte*"])
    fisher.remove(samples()[:2])
    fisher.save(path)
    loaded = fu.LowRankFisher.load(path, model)
    v = torch.randn(fisher.shape[0], dtype=torch.float64)
    assert torch.equal(loaded.gram, fisher.gram) and loaded.samples == 6
    assert torch.equal(loaded.solve(v), fisher.solve(v))
    loaded.remove(samples()[2:3])
    with pytest.raises(OutputError, match="there already"):
        fisher.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(InvalidInputError, match="damaged"):
        fu.LowRankFisher.load(path, model)
    path.write_bytes(whole)
    with torch.no_grad():
        model.transformer.wte.weight[0, 0] += 1
    with pytest.raises(InvalidInputError, match="other weights"):
        fu.LowRankFisher.load(path, model)
    with pytest.raises(InvalidInputError, match="there is no file"):
        fu.LowRankFisher.load(tmp_path / "none", model)


def test_forgetting_personal_data(tiny_gpt2):
    fisher = fu.LowRankFisher(tiny_gpt2(layers=1), samples(), 1e-3)
    fisher.forget_personal_data()
    kept = [value for value in vars(fisher).values() if isinstance(value, torch.Tensor | list | tuple)]
    assert not any(isinstance(value, torch.Tensor) for value in kept)
    assert fisher._rows is None and fisher._fisher is None
    for use in (lambda: fisher.solve(torch.ones(fisher.shape[0])), lambda: fisher.gram, fisher.logdet):
        with pytest.raises(InvalidInputError, match="purged"):
            use()


def test_weights_changed_since_are_noticed(tiny_gpt2):
    model = tiny_gpt2(layers=1)
    fisher = fu.LowRankFisher(model, samples(), 1e-3)
    with torch.no_grad():
        model.transformer.wte.weight.add_(1)
    with pytest.raises(InvalidInputError, match="weights have changed"):
        fisher.solve(torch.ones(fisher.shape[0], dtype=torch.float64))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"damping": 0}, "damping=0 must be"),
        ({"damping": float("nan")}, "damping=nan"),
        ({"batches": []}, "batches is empty"),
        ({"batches": [3]}, "item 0 is a int"),
        ({"batches": [{"input_ids": torch.ones(1, 4, dtype=torch.int64)}]}, "needs labels"),
        ({"blocks": "rows"}, "blocks='rows' is unknown"),
        ({"kind": "exact"}, "kind='exact' is unknown"),
        ({"memory": "lots"}, "memory='lots' is not a size"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 32, "memory": "100KB"}, r"batch_size=\d+ would fit"),
        ({"memory": "1KB"}, "give memory at least"),
        ({"kind": "ggn", "batches": make_samples((30,) * 20, seed=1)}, "use kind='sampled'"),
    ],
)
def test_bad_input(tiny_gpt2, options, message):
    settings = {"batches": samples(), "damping": 1e-3, **options}
    with pytest.raises(InvalidInputError, match=message):
        fu.LowRankFisher(tiny_gpt2(layers=1), **settings)


def test_a_gradient_that_is_not_finite_names_its_sample(tiny_gpt2):
    model, some = tiny_gpt2(layers=1), make_samples((5, 9, 3), seed=0)
    rare = 36
    some = [s._replace(input_ids=s.input_ids.clamp_max(rare - 1)) for s in some]
    some[1].input_ids[1] = rare
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.transformer.wte.weight[rare] = 1e300
    with pytest.raises(InvalidInputError, match=r"at sample 1 \(counted from 0\)"):
        fu.LowRankFisher(model, some, 1e-3)


def test_wrong_vectors(tiny_gpt2):
    fisher = fu.LowRankFisher(tiny_gpt2(layers=1), samples(), 1e-3)
    with pytest.raises(InvalidInputError, match="v has shape"):
        fisher.solve(torch.ones(3, dtype=torch.float64))
    with pytest.raises(InvalidInputError, match="one weight per sample"):
        fisher.solve_samples(torch.ones(3))
    with pytest.raises(InvalidInputError, match="c holds NaN"):
        fisher.solve_samples(torch.full((8,), torch.nan))
    with pytest.raises(InvalidInputError, match="form='rows'"):
        fisher.solve_samples(torch.ones(8), form="rows")
