"""A device that is none: tensors of the CPU that say they are on a GPU, and an error where one of them meets one that
is not, as PyTorch on a GPU would give it. So that code for GPUs is run where there is none, its values with it.

    with pretended_gpu() as gpu:
        model.to("cuda")
        ...
        with gpu.recording():  # as of a CUDA graph: nothing may wait for the GPU, or come from the CPU
            ...

Marked are storages; what an operator makes of marked tensors is marked too. What needs more than tensors of a GPU
(streams, events, memory counters, random generators there) is not pretended; of a recording only what it forbids.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor
from torch.utils._device import DeviceContext
from torch.utils._device import _device_constructors as CONSTRUCTORS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["pretended_gpu"]

PROPERTIES = SimpleNamespace(name="pretended", major=9, minor=0, total_memory=1 << 34, multi_processor_count=1)
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
#: Operators that take tensors of both devices: copies, and indices (those on the CPU).
MIXED = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
#: Operators whose result has a shape, or is a number, that the CPU must wait for.
WAITING = {
    "_local_scalar_dense", "_unique2", "argwhere", "bincount", "equal", "is_nonzero", "item", "masked_select",
    "nonzero", "repeat_interleave", "unique_consecutive", "unique_dim",
}  # fmt: skip


class _Marks:
    """The storages that are on the GPU; held, so that no other one takes the address of one of them."""

    def __init__(self):
        self._held: dict[int, object] = {}
        self._recording = False

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """A CUDA graph is being recorded: what that does not permit is an error."""
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def refuse_in_recording(self, what: object) -> None:
        if self._recording:
            raise RuntimeError(f"{what}: operation not permitted when stream is capturing")

    def is_recording(self) -> bool:
        return self._recording

    def __contains__(self, tensor: Tensor) -> bool:
        if type(tensor) not in (Tensor, torch.nn.Parameter):  # a value of the dual pass: no storage, a device
            return _real_device(tensor).type == "cuda"
        return _storage(tensor)._cdata in self._held

    def add(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        self._held[storage._cdata] = storage


def _real_device(tensor: Tensor) -> torch.device:
    with torch._C.DisableTorchFunction():
        return torch._C.TensorBase.device.__get__(tensor)


def _storage(tensor: Tensor):
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    with torch._C.DisableTorchFunction():  # a dual pass does not follow this
        return tensor.untyped_storage()


def _tensors(*values) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class _Operators(TorchDispatchMode):
    """Looks at what operators are given, in backward passes too, and marks what they make."""

    def __init__(self, marks: _Marks):
        super().__init__()
        self._marks = marks

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = _tensors(args, kwargs or {})
        on_gpu = [tensor in self._marks for tensor in given]
        name = function.__name__.partition(".")[0]
        if any(on_gpu) and name not in MIXED:
            for tensor, marked in zip(given, on_gpu, strict=True):
                if not marked and tensor.dim() > 0:
                    raise RuntimeError(
                        f"{function}: expected all tensors to be on the same device, but found cuda:0 and cpu "
                        f"({[tuple(t.shape) for t in given]}, on the GPU: {on_gpu})"
                    )
        if any(on_gpu):
            self._check_recording(function, name, kwargs or {}, given, on_gpu)
        if name in ("index", "index_put", "index_put_") and given and not on_gpu[0] and any(on_gpu):
            raise RuntimeError(f"{function}: indices or values on the GPU for a tensor on the CPU")
        found = function(*args, **(kwargs or {}))
        decides = on_gpu[:1] if name in MIXED else on_gpu
        if any(decides):
            for tensor in _tensors(found):
                self._marks.add(tensor)
        return found

    def _check_recording(self, function, name: str, kwargs: dict, given: list[Tensor], on_gpu: list[bool]) -> None:
        waits = name in WAITING and kwargs.get("output_size") is None
        by_mask = "index" in name and any(tensor.dtype == torch.bool for tensor in given[1:])
        crosses = name in ("copy_", "_to_copy") and not all(on_gpu)
        if waits or by_mask or crosses:
            self._marks.refuse_in_recording(function)


FACTORIES = (
    "arange", "as_tensor", "empty", "empty_like", "empty_strided", "eye", "full", "full_like", "linspace", "ones",
    "ones_like", "rand", "rand_like", "randint", "randn", "randn_like", "randperm", "tensor", "tril_indices",
    "triu_indices", "zeros", "zeros_like",
)  # fmt: skip
METHODS = ("to", "cuda", "cpu", "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros")
#: Those that make a tensor where it shall be; the others copy what is there.
FRESH = {*FACTORIES, *METHODS} - {"as_tensor", "tensor", "to", "cuda", "cpu", "new_tensor"}


def _asked(name: str, args: tuple, kwargs: dict) -> tuple[torch.device | None, tuple, dict]:
    """The device that the caller names, and the arguments with the CPU in the GPU's place."""
    wanted = kwargs.get("device")
    if wanted is not None:
        wanted = torch.device(wanted)
        kwargs = {**kwargs, "device": CPU} if wanted.type == "cuda" else kwargs
    elif name in ("cuda", "cpu"):
        wanted = torch.device(name)
    elif name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
        wanted = args[1].device
    elif name == "to" and len(args) > 1 and isinstance(args[1], str | torch.device):
        wanted = torch.device(args[1])
        args = (args[0], CPU, *args[2:]) if wanted.type == "cuda" else args
    return wanted, args, kwargs


def _pretending(marks: _Marks, name: str, own):
    """PyTorch's function of that name, that takes the GPU as a device."""
    inside = False  # a dual pass that follows ``own`` calls this function again, with the CPU as the device already

    @functools.wraps(own)
    def function(*args, **kwargs):
        nonlocal inside
        if inside:
            return own(*args, **kwargs)
        inside = True
        try:
            return pretended(*args, **kwargs)
        finally:
            inside = False

    def pretended(*args, **kwargs):
        kwargs.pop("pin_memory", None)
        wanted, args, kwargs = _asked(name, args, kwargs)
        if wanted is not None and wanted.type == "cuda" and kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if name == "to" and args[1:] == (CPU,) and not kwargs and (args[0] in marks) == (wanted.type == "cuda"):
            return args[0]  # there already: also a value of the dual pass
        found = args[0] if name == "cuda" else own(*args, **kwargs)
        if wanted is None or wanted.type not in ("cuda", "cpu") or not isinstance(found, Tensor):
            return found
        return _moved(marks, found, wanted.type == "cuda", fresh=name in FRESH)

    return function


def _moved(marks: _Marks, tensor: Tensor, to_gpu: bool, fresh: bool) -> Tensor:
    if (tensor in marks) == to_gpu:
        return tensor
    if to_gpu and fresh:
        marks.add(tensor)
        return tensor
    if not fresh:
        marks.refuse_in_recording("a copy between the CPU and the GPU")
    return _Move.apply(tensor, marks, to_gpu)


def _numpy(marks: _Marks, own):
    def numpy(self, *args, **kwargs):
        if self in marks:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        return own(self, *args, **kwargs)

    return numpy


def _tolist(marks: _Marks, own):
    def tolist(self):
        if self in marks:
            marks.refuse_in_recording("tolist")
        return own(self)

    return tolist


def _with_wide_results(own):
    """A product of PyTorch's that takes ``out_dtype``, which there is for GPUs alone."""

    def product(*tensors, out_dtype: torch.dtype | None = None, **kwargs):
        return own(*tensors, **kwargs) if out_dtype is None else own(*(t.to(out_dtype) for t in tensors), **kwargs)

    return product


class _Move(torch.autograd.Function):
    """A copy on the other side, and its gradient on this one."""

    @staticmethod
    def forward(ctx, tensor: Tensor, marks: _Marks, to_gpu: bool) -> Tensor:
        ctx.marks, ctx.to_gpu = marks, to_gpu
        return _copied(tensor, marks, to_gpu)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return _copied(gradient, ctx.marks, not ctx.to_gpu), None, None


def _copied(tensor: Tensor, marks: _Marks, to_gpu: bool) -> Tensor:
    with torch.utils._python_dispatch._disable_current_modes():
        found = tensor.detach().clone()
    if to_gpu:
        marks.add(found)
    return found


def _context(marks: _Marks, own):
    """``with torch.device("cuda"):``"""

    def function(self, called, types, args=(), kwargs=None):
        if self.device.type != "cuda" or called not in CONSTRUCTORS() or (kwargs or {}).get("device") is not None:
            return own(self, called, types, args, kwargs)
        found = called(*args, **{**(kwargs or {}), "device": CPU})
        marks.add(found)
        return found

    return function


class _Event:
    """Of ``torch.cuda.Event``; no time passes."""

    def __init__(self, enable_timing: bool = False):
        pass

    def record(self) -> None:
        pass

    synchronize = record

    def elapsed_time(self, other: _Event) -> float:
        return 1.0


@contextlib.contextmanager
def pretended_gpu() -> Iterator[_Marks]:
    """One GPU, of the CPU's arithmetic, in this thread."""
    import torch._decomp.decompositions_for_jvp  # reads the source of PyTorch's own functions

    CONSTRUCTORS()  # keeps them, from its first call on

    marks = _Marks()
    stream = SimpleNamespace(cuda_stream=0)
    patches: list[tuple[object, str, object]] = [
        (torch.Tensor, "device", property(lambda self: GPU if self in marks else _real_device(self))),
        (torch.Tensor, "is_cuda", property(lambda self: self in marks)),
        (torch.Tensor, "is_cpu", property(lambda self: self not in marks and _real_device(self).type == "cpu")),
        (torch.Tensor, "pin_memory", lambda self, device=None: self),
        (torch.Tensor, "get_device", lambda self: 0 if self in marks else -1),
        (torch.Tensor, "numpy", _numpy(marks, torch.Tensor.numpy)),
        (torch.Tensor, "tolist", _tolist(marks, torch.Tensor.tolist)),
        (DeviceContext, "__torch_function__", _context(marks, DeviceContext.__torch_function__)),
    ]
    patches += [(torch, name, _pretending(marks, name, getattr(torch, name))) for name in FACTORIES]
    patches += [(torch.Tensor, name, _pretending(marks, name, getattr(torch.Tensor, name))) for name in METHODS]
    patches += [(torch, name, _with_wide_results(getattr(torch, name))) for name in ("mm", "bmm", "addmm")]
    patches += [(torch.cuda, name, value) for name, value in {
        "Event": _Event, "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "synchronize": lambda device=None: None, "current_stream": lambda device=None: stream,
        "device": lambda device: contextlib.nullcontext(), "is_current_stream_capturing": marks.is_recording,
        "get_device_properties": lambda device=None: PROPERTIES, "get_device_name": lambda device=None: PROPERTIES.name,
        "get_device_capability": lambda device=None: (8, 0), "mem_get_info": lambda device=None: (1 << 34, 1 << 34),
        "max_memory_allocated": lambda device=None: 0, "memory_allocated": lambda device=None: 0,
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
        "reset_peak_memory_stats": lambda device=None: None, "empty_cache": lambda: None,
        "_sleep": lambda cycles: None,
    }.items()]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for place, name, value in patches:
            stack.enter_context(mock.patch.object(place, name, value, create=True))
        stack.enter_context(_Operators(marks))
        yield marks
