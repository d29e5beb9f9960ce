"""Which parameters of a model an operator acts on, and in what order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn

from fastunlearn._threads import PASS
from fastunlearn.errors import InvalidInputError

__all__ = ["choose_parameters"]

Choice = str | nn.Parameter | Iterable[str] | Iterable[nn.Parameter] | Mapping[str, nn.Parameter] | None


def choose_parameters(model: nn.Module, params: Choice = None) -> dict[str, nn.Parameter]:
    """The chosen parameters by their names in ``model``. A tied parameter counts once, under its first name.

    ``params``: None for all with ``requires_grad``; one or several names or patterns (``*``, ``?``); the parameters
    themselves; or a mapping from names to parameters, as ``dict(model.named_parameters())``. Names give the order of
    ``model.parameters()``; parameters and mappings keep the order in which they are given, so that a flat vector is
    always that of ``torch.nn.utils.parameters_to_vector``. A frozen parameter may be named.

    Raises InvalidInputError: nothing chosen, a name or parameter that the model has not, one that is given twice,
    one without a floating dtype (quantised weights), or parameters on several devices.
    """
    if isinstance(params, str | nn.Parameter):
        chosen = _from_sequence(model, [params])
    elif params is None:
        with PASS:  # which sets these flags for its time
            chosen = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not chosen:
            raise InvalidInputError("model has no parameter with requires_grad: name the parameters in params=[...]")
    elif isinstance(params, Mapping):
        chosen = _from_mapping(model, params)
    else:
        chosen = _from_sequence(model, list(params))
    for name, parameter in chosen.items():
        if not parameter.is_floating_point():
            raise InvalidInputError(
                f"params: {name!r} is quantised ({parameter.dtype}) and has no gradient; leave it out, and choose "
                f"floating-point parameters such as adapters (LoRA), or load the model unquantised"
            )
        if parameter.is_meta:
            raise InvalidInputError(f"params: {name!r} has no data (it is on the meta device): load the weights first")
    devices = sorted({str(p.device) for p in chosen.values()})
    if len(devices) > 1:
        raise InvalidInputError(f"params are on several devices ({', '.join(devices)}): choose those of one device")
    return chosen


def _from_mapping(model: nn.Module, params: Mapping) -> dict[str, nn.Parameter]:
    aliases = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in params.items():
        if aliases.get(name) is not parameter:
            raise InvalidInputError(f"params[{name!r}] is not the parameter of that name of the model")
    return _from_sequence(model, list(params.values()))


def _from_sequence(model: nn.Module, params: list) -> dict[str, nn.Parameter]:
    if not params:
        raise InvalidInputError("params is empty: leave it out for all parameters with requires_grad")
    if all(isinstance(one, str) for one in params):
        return _from_patterns(model, params)
    names = {id(p): name for name, p in model.named_parameters()}
    chosen: dict[str, nn.Parameter] = {}
    for i, one in enumerate(params):
        name = names.get(id(one))
        if name is None:
            what = f"a tensor of shape {tuple(one.shape)}" if isinstance(one, nn.Parameter) else repr(one)
            raise InvalidInputError(f"params[{i}] is {what}, which is no parameter of the model")
        if name in chosen:
            raise InvalidInputError(f"params[{i}] is {name!r} for the second time: give each parameter once")
        chosen[name] = one
    return chosen


def _from_patterns(model: nn.Module, patterns: list[str]) -> dict[str, nn.Parameter]:
    matched: set[int] = set()
    aliases = list(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        found = [id(p) for name, p in aliases if name == pattern or fnmatchcase(name, pattern)]
        if not found:
            some = ", ".join(name for name, _ in aliases[:3])
            raise InvalidInputError(f"params: no parameter of the model is called {pattern!r}; it has {some}, ...")
        matched.update(found)
    return {name: p for name, p in model.named_parameters() if id(p) in matched}
