"""Files of Fishers that were changed, or are another program's: refused by name, never half read."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError
from fastunlearn.solve.kept_fisher import KeptFisher, keep_fisher
from tests.operators.sampling import make_samples

SAMPLES = make_samples((5, 9, 3))


def change(path, edit) -> None:
    """Writes the file again after ``edit(tensors, about)``; about becomes what it returns, where it returns any."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["fastunlearn"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    other = edit(tensors, about)
    save_file(tensors, path, metadata={"fastunlearn": json.dumps(about) if other is None else other})


def without(name):
    return lambda tensors, about: about.pop(name, None) and None


def setting(**values):
    return lambda tensors, about: about.update(values)


def tensor(name, make):
    return lambda tensors, about: tensors.update({name: make(tensors[name]).contiguous()})


@pytest.fixture
def low_rank(tiny_gpt2, tmp_path):
    model, path = tiny_gpt2(layers=1), tmp_path / "fisher.safetensors"
    fu.LowRankFisher(model, SAMPLES, 1e-3).save(path)
    return model, path


ANOTHER = {
    "no facts": lambda tensors, about: "{}",
    "facts that are a list": lambda tensors, about: "[1, 2]",
    "another format": setting(format="fastunlearn-low-rank-fisher-9"),
}
CHANGED = {
    "facts cut short": lambda tensors, about: json.dumps(about)[:-9],
    "no damping": without("damping"),
    "no seed": without("seed"),
    "no Gram": lambda tensors, about: tensors.pop("gram") is None or None,
    "a smaller Gram": tensor("gram", lambda t: t[:, :2, :2]),
    "Gram of two blocks": tensor("gram", lambda t: torch.cat([t, t])),
    "fewer digests": lambda tensors, about: about["digests"].pop() and None,
    "digests that are a number": setting(digests=3),
    "lengths of more tokens": tensor("rows.lengths", lambda t: t + 1),
    "fewer signs": tensor("rows.signs", lambda t: t[:-1]),
}


@pytest.mark.parametrize("edit", ANOTHER.values(), ids=ANOTHER)
def test_files_that_are_no_low_rank_fisher(low_rank, edit):
    change(low_rank[1], edit)
    with pytest.raises(InvalidInputError, match=r"path: .* is not a file of LowRankFisher\.save"):
        fu.LowRankFisher.load(low_rank[1], low_rank[0])


@pytest.mark.parametrize("edit", CHANGED.values(), ids=CHANGED)
def test_changed_files_of_a_low_rank_fisher(low_rank, edit):
    change(low_rank[1], edit)
    with pytest.raises(InvalidInputError, match=r"path: .* is damaged .*; make the Fisher again"):
        fu.LowRankFisher.load(low_rank[1], low_rank[0])


def test_precision_comes_back_from_the_file(tiny_gpt2, tmp_path):
    model, path = tiny_gpt2(torch.float32, layers=1), tmp_path / "fisher.safetensors"
    fisher = fu.LowRankFisher(model, SAMPLES, 1e-3, precision="float64")
    fisher.save(path)
    loaded = fu.LowRankFisher.load(path, model)
    v = torch.randn(fisher.shape[0], dtype=torch.float64)
    assert loaded.dtype == torch.float64
    assert torch.equal(loaded.solve(v), fisher.solve(v))
    change(path, without("precision"))  # as files were before it was written down
    assert fu.LowRankFisher.load(path, model).dtype == torch.float32


def test_blocks_of_a_fixed_number_of_weights_have_no_file(tiny_gpt2, tmp_path):
    fisher = fu.LowRankFisher(tiny_gpt2(layers=1), SAMPLES, 1e-3, blocks=64)
    with pytest.raises(InvalidInputError, match=r"save: .* name a file for G in path="):
        fisher.save(tmp_path / "fisher.safetensors")
    with pytest.raises(InvalidInputError, match="Gram matrices are not kept"):
        fisher.gram  # noqa: B018
    assert not list(tmp_path.iterdir())


@pytest.fixture
def kept(tiny_gpt2, tmp_path):
    path = tmp_path / "kept.safetensors"
    keep_fisher(tiny_gpt2(layers=1), SAMPLES, pad_token_id=0, rank=2).save(path)
    return path


@pytest.mark.parametrize("edit", [*list(ANOTHER.values())[:2], setting(format="another")], ids=ANOTHER)
def test_files_that_are_no_kept_fisher(kept, edit):
    change(kept, edit)
    with pytest.raises(InvalidInputError, match=r"kept_fisher: .* is not a Fisher that fastunlearn kept"):
        KeptFisher.load(kept)


@pytest.mark.parametrize(
    "edit",
    [
        lambda tensors, about: json.dumps(about)[:-9], without("weights"), setting(parameters=3),
        setting(parameters=["a stranger"]), setting(damping=-1.0), setting(samples=0), setting(samples="three"),
        tensor("core", lambda t: t[:, :1]), tensor("core", lambda t: t * torch.nan),
        tensor("core", lambda t: torch.ones(3, 3, dtype=t.dtype)),
    ],
    ids=["cut short", "no weights", "parameters", "stranger", "damping", "none left", "text", "core", "NaN", "rank"],
)  # fmt: skip
def test_changed_files_of_a_kept_fisher(kept, edit):
    change(kept, edit)
    with pytest.raises(InvalidInputError, match=r"kept_fisher: .* is damaged .*; keep the Fisher again"):
        KeptFisher.load(kept)
