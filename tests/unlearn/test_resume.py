"""A run that was stopped after any step and is taken up again ends with the bits of an unbroken one."""

from __future__ import annotations

import copy

import pytest

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.state import PassState
from fastunlearn.unlearn import METHODS
from tests.unlearn.running import kept_fisher, run
from tests.unlearn.unchanged import bits, same_bits

FEW = {"steps": 4, "target_accuracy": 0.0, "target_loss": 1e3, "kl_budget": None}
OPTIONS = {
    "fisher-removal": {**FEW, "refresh": 2, "kind": "sampled"},
    "fisher-forgetting": {**FEW, "fisher_samples": 20, "noise": 1e-3},
    "fisher-removal-retain-free": FEW,
    "k-fade": {**FEW, "refresh": 2},
    "kronecker-removal": {**FEW, "refresh": 2},
    "gauss-newton-removal": {**FEW, "refresh": 2, "products": 2},
    "kronecker-removal-rehearsed": {**FEW, "steps": 3, "rehearsals": 2},
}


class Killed(BaseException):
    """Stands for a kill: no handler of ours expects it."""


def stop_at(step):
    def on_step(entry):
        if entry["step"] == step:
            raise Killed

    return on_step


def numbers(result):
    return result.steps, result.gradients, result.stopped


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.restartable])
def test_every_stop_is_mended(world, tmp_path, method):
    options = dict(OPTIONS[method])
    if METHODS[method].uses_kept:
        options["kept_fisher"] = kept_fisher(world)
    start, written = copy.deepcopy(world.model), set()
    whole = run(world, method, **options)
    after = bits(world.model)
    assert len(whole.steps) >= 5 and not same_bits(bits(start), after)
    for step in range(1, len(whole.steps)):
        world.model = copy.deepcopy(start)
        path = tmp_path / f"{step}.safetensors"
        with pytest.raises(Killed):
            run(world, method, **options, on_step=stop_at(step), state=PassState(path, 0, "one"))
        assert same_bits(bits(world.model), bits(start))  # an exception, unlike a kill, puts the weights back
        written.add(path.exists())
        again = run(world, method, **options, state=PassState(path, 0, "one"))
        assert numbers(again) == numbers(whole) and same_bits(bits(world.model), after)
    assert written == {True, False}  # at the first step there was nothing to take up yet, later there was


def test_the_state_of_another_run_is_not_used(world, tmp_path):
    start, path = copy.deepcopy(world.model), tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        run(world, **FEW, on_step=stop_at(3), state=PassState(path, 0, "one"))
    seen = []
    run(world, **FEW, on_step=lambda entry: seen.append(entry["step"]), state=PassState(path, 0, "two"))
    assert seen[0] == 0
    world.model = start
    with pytest.raises(InvalidInputError, match="other weights"):
        run(world, **FEW, parameters="*mlp*", state=PassState(path, 0, "two"))


def test_a_method_that_cannot_is_refused(world, tmp_path):
    with pytest.raises(InvalidInputError, match="state: newton"):
        run(world, "newton", state=PassState(tmp_path / "s.safetensors", 0, "one"))
