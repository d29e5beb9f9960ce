"""Models whose parameters are spread over processes (FSDP2's ``fully_shard``): whole only where and while needed.

The engine and the capture read parameters as plain tensors. So the sharded model gets a *shell*: the same modules with
placeholder parameters, without FSDP's hooks. A placeholder has its full shape and no memory until it is gathered:

    repeated blocks     for the time of their forward pass, and again of their reverse sweep
    all else            (embeddings, norms, biases, output layer) for the time of a pass

Tangents and results are held as shards, (k, *shape of the shard), and gathered and summed over processes with the
parameter that they belong to. Every process gives batches of its own and must take part in every call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastunlearn.dual.blocks import repeated_blocks
from fastunlearn.dual.values import Dual
from fastunlearn.errors import InvalidInputError

__all__ = ["Shards"]


def _dtensor() -> type:
    from torch.distributed.tensor import DTensor

    return DTensor


def is_sharded(parameters: Iterable[Any]) -> bool:
    """Whether any of these is a DTensor."""
    return dist.is_available() and dist.is_initialized() and any(isinstance(p, _dtensor()) for p in parameters)


def _reshard(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "reshard") and hasattr(module, "unshard"):
            module.reshard()


class Shards:
    """``of(model)``: the shards of ``model``, or None where no parameter is a DTensor. ``origin``: the DTensors by
    name; ``shell``: the plain model; ``parameters``: its placeholders by the same names.

    Raises InvalidInputError for a layout other than FSDP2's over one group of processes.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.origin = {name: p for name, p in model.named_parameters() if isinstance(p, _dtensor())}
        self.mesh = next(iter(self.origin.values())).device_mesh
        for name, p in self.origin.items():
            plain = len(p.placements) == 1 and (p.placements[0].is_replicate() or p.placements[0].is_shard())
            if not plain or p.device_mesh != self.mesh:
                raise InvalidInputError(
                    f"model: {name!r} is laid out as {p.placements} over {p.device_mesh}; only fully_shard over one "
                    "mesh of one dimension is supported (no HSDP, no tensor parallelism)"
                )
        self.group = self.mesh.get_group()
        self._data: dict[str, Tensor] = {}
        self._counts = dict.fromkeys(self.origin, 0)
        names = {id(p): name for name, p in self.origin.items()}
        made: dict[str, nn.Parameter] = {}
        for name, p in self.origin.items():
            data = torch.empty(p.shape, dtype=p.dtype, device=p.device)
            made[name] = nn.Parameter(data, requires_grad=p.requires_grad)
            # .data counts its versions for itself: autograd need not know of memory that comes and goes
            self._data[name] = made[name].data
            data.untyped_storage().resize_(0)
        self.shell = _plain_copy(model, lambda p: made[names[id(p)]] if id(p) in names else p, {})
        self.parameters = {name: p for name, p in self.shell.named_parameters() if name in self.origin}
        self._tangents: dict[str, tuple[Tensor, Tensor]] = {}  # by name: shard, placeholder
        self._outs: dict[str, tuple[Tensor, Tensor]] = {}
        self._backward: list[str] | None = None  # what was gathered last for an ordinary backward pass
        self._divide()

    @classmethod
    def of(cls, model: nn.Module) -> Shards | None:
        if not dist.is_available() or not dist.is_initialized():
            return None
        _reshard(model)
        return cls(model) if is_sharded(model.parameters()) else None

    def _divide(self) -> None:
        """Which parameters come and go with which block. Vectors, and what no rule reads as a matrix, always stay."""
        from .plan import _kind

        matrices = {
            id(p) for m in self.shell.modules() for a, p in m.named_parameters(recurse=False)
            if p.dim() > 1 and _kind(m, a) in ("linear", "transposed", "embedding")
        }  # fmt: skip
        names = {id(p): name for name, p in self.parameters.items()}
        held: set[str] = set()
        self._blocks: dict[int, list[str]] = {}
        for block in repeated_blocks(self.shell):
            own = [names[id(p)] for p in block.parameters() if id(p) in names and id(p) in matrices]
            own = [name for name in own if name not in held]
            held.update(own)
            self._blocks[id(block)] = own
            block.register_forward_pre_hook(lambda _m, _a, own=own: self._enter(own))
            block.register_forward_hook(lambda _m, _a, output, own=own: self._leave(own, output), always_call=True)
        self.rest = [name for name in self.origin if name not in held]

    def groups(self) -> list[list[str]]:
        """The parameters that are whole together: those that always stay, and each block's."""
        return [self.rest, *(own for own in self._blocks.values() if own)]

    # Whole parameters, for a time

    def gather(self, names: Iterable[str], reverse: bool = False) -> None:
        """Makes parameters whole, with their tangents, and for the reverse sweep zeros for their results."""
        with torch.no_grad(), torch._C.DisableTorchFunction():
            for name in names:
                self._counts[name] += 1
                if self._counts[name] == 1:
                    _fill(self._data[name], self.origin[name].full_tensor())
                    if name in self._tangents:
                        shard, place = self._tangents[name]
                        _fill(place, self.whole(name, shard))
                if reverse and name in self._outs:
                    place = self._outs[name][1]
                    place.untyped_storage().resize_(place.numel() * place.element_size())
                    place.zero_()

    def release(self, names: Iterable[str], reverse: bool = False) -> None:
        """Takes their memory back; results of the reverse sweep are summed over processes and cut into shards."""
        with torch.no_grad(), torch._C.DisableTorchFunction():
            for name in names:
                if reverse and name in self._outs:
                    shard, place = self._outs[name]
                    shard.add_(self.reduced(name, place))
                    place.untyped_storage().resize_(0)
                self._counts[name] -= 1
                if self._counts[name] == 0:
                    for place in [self._data[name], *(self._tangents[name][1:] if name in self._tangents else ())]:
                        place.untyped_storage().resize_(0)

    def _enter(self, own: list[str]) -> None:
        if self._backward is not None:
            self.release(self._backward)
            self._backward = None
        self.gather(own)

    def _leave(self, own: list[str], output: Any) -> None:
        self.release(own)
        for tensor in tree_leaves(output):
            # Values of a dual pass have no backward of autograd's: its sweep runs the block again.
            if isinstance(tensor, Tensor) and not isinstance(tensor, Dual) and tensor.requires_grad:
                tensor.register_hook(lambda _g: self._enter_backward(own))

    def _enter_backward(self, own: list[str]) -> None:
        if self._backward is not own:
            if self._backward is not None:
                self.release(self._backward)
            self.gather(own)
            self._backward = own

    @contextmanager
    def pass_(self, tangents=None, out=None) -> Iterator[tuple[dict | None, dict | None]]:
        """A pass over the shell. Shards of ``tangents`` and ``out``, (k, *local) by name, become placeholders."""
        _reshard(self.model)
        self._tangents = {} if tangents is None else self._places(tangents)
        self._outs = {} if out is None else self._places(out)
        reverse = out is not None
        try:
            self.gather(self.rest, reverse)
            yield (
                None if tangents is None else {name: place for name, (_, place) in self._tangents.items()},
                None if out is None else {name: place for name, (_, place) in self._outs.items()},
            )
            if self._backward is not None:
                self.release(self._backward)
            self.release(self.rest, reverse)
        finally:  # after an exception all is dropped, without waiting for processes that did not have it
            for place in self._data.values():
                place.untyped_storage().resize_(0)
            self._counts = dict.fromkeys(self.origin, 0)
            self._tangents, self._outs, self._backward = {}, {}, None

    def _places(self, shards: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        found = {}
        for name, shard in shards.items():
            place = torch.empty(shard.shape[0], *self.origin[name].shape, dtype=shard.dtype, device=shard.device)
            place.untyped_storage().resize_(0)
            found[name] = (shard, place)
        return found

    @contextmanager
    def reversing(self, block: nn.Module) -> Iterator[None]:
        """Around the reverse sweep of a block."""
        own = self._blocks.get(id(block), [])
        self.gather(own, True)
        yield
        self.release(own, True)

    # Between shards and whole tensors

    def _moved(self, name: str) -> list:
        """The parameter's placements with an axis of vectors in front."""
        from torch.distributed.tensor import Shard

        return [Shard(p.dim + 1) if p.is_shard() else p for p in self.origin[name].placements]

    def whole(self, name: str, shard: Tensor) -> Tensor:
        """(k, *shape) from every process's (k, *local)."""
        shape = torch.Size((shard.shape[0], *self.origin[name].shape))
        strides = torch.empty(shape, device="meta").stride()
        held = _dtensor().from_local(
            shard.contiguous(), self.mesh, self._moved(name), run_check=False, shape=shape, stride=strides
        )
        return held.full_tensor()

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """This process's (k, *local) of a (k, *shape) that all processes have."""
        from torch.distributed.tensor import Replicate

        held = _dtensor().from_local(whole, self.mesh, [Replicate()], run_check=False)
        return held.redistribute(placements=self._moved(name)).to_local()

    def reduced(self, name: str, own: Tensor) -> Tensor:
        """The shard of the sum over processes of (k, *shape)."""
        dist.all_reduce(own, group=self.group)
        return self.cut(name, own)

    def total(self, *numbers: float) -> list[float]:
        """Sums over processes."""
        found = torch.tensor(numbers, dtype=torch.float64, device=next(iter(self._data.values())).device)
        dist.all_reduce(found, group=self.group)
        return found.tolist()

    def check_finite(self, parameters: dict[str, Tensor]) -> None:
        """Raises InvalidInputError, on every process, where a shard anywhere holds NaN or infinity."""
        odd = self.total(*(float(not torch.isfinite(p.to_local()).all()) for p in parameters.values()))
        for name, count in zip(parameters, odd, strict=True):
            if count:
                raise InvalidInputError(f"model: parameter {name!r} holds NaN or infinity; load a sound checkpoint")

    def most(self, number: float) -> float:
        """The largest over processes."""
        found = torch.tensor([float(number)], dtype=torch.float64, device=next(iter(self._data.values())).device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.group)
        return float(found)


def _fill(place: Tensor, value: Tensor) -> None:
    place.untyped_storage().resize_(place.numel() * place.element_size())
    place.copy_(value)


def _plain_copy(module: nn.Module, exchange, made: dict[int, nn.Module]) -> nn.Module:
    """The module tree with other parameters, of the classes that it had before FSDP, without FSDP's hooks."""
    if id(module) in made:
        return made[id(module)]
    kind = type(module)
    if kind.__name__.startswith("FSDP") and hasattr(module, "unshard"):
        kind = kind.__bases__[-1]
    copy = kind.__new__(kind)
    made[id(module)] = copy
    state = dict(module.__dict__)
    state["_parameters"] = {n: None if p is None else exchange(p) for n, p in module._parameters.items()}
    state["_buffers"] = dict(module._buffers)
    for hooks in ("_forward_pre_hooks", "_forward_hooks"):
        kept = [(k, hook) for k, hook in state[hooks].items() if not _of_fsdp(hook)]
        state[hooks] = OrderedDict(kept)
    for flags in ("_forward_hooks_always_called", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"):
        state[flags] = OrderedDict(state[flags])
    state["_modules"] = {}
    object.__setattr__(copy, "__dict__", state)
    for name, child in module._modules.items():
        copy._modules[name] = None if child is None else _plain_copy(child, exchange, made)
    return copy


def _of_fsdp(hook: Any) -> bool:
    owner = type(getattr(hook, "__self__", hook)).__module__ + " " + str(getattr(hook, "__module__", ""))
    return "torch.distributed" in owner
