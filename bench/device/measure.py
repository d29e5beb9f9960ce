"""How a GPU benchmark measures: medians of CUDA events after a warm-up, peaks of the allocator, the machine's rates."""

from __future__ import annotations

import functools
import gc
import re
import statistics
import time
from collections.abc import Callable

import torch

__all__ = ["HALF", "Bench", "described", "error", "gpu_is_lost", "leave_out_imports", "prefix"]

#: The dtype of weights and activations.
HALF = torch.bfloat16
_SLOW, _VERY_SLOW = 1.0, 10.0  # seconds
_LONG_LAUNCH = 0.02


class Bench:
    """Where and how large: the device, toy shapes or real ones, rounds. ``lost``: a way broke the GPU for this process
    (an illegal access, say), where every later call raises the same error."""

    def __init__(self, device: str, toy: bool, rounds: int):
        self.device, self.toy, self.rounds = device, toy, 1 if toy else rounds
        self.cuda = device == "cuda"
        self.half = HALF
        self.lost = False
        leave_out_imports()

    def draw(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> torch.Tensor:
        return (scale * torch.randn(shape, device=self.device)).to(dtype or self.half)

    def measure(self, run: Callable[[], object]) -> dict:
        """Seconds (median, least) and peak bytes of ``run``, or why it did not run."""
        if self.lost:
            return {"failed": "an earlier way broke the GPU for this process"}
        try:
            return self._measured(run)
        except Exception as failure:  # a peer's; out of memory, mostly
            found = {"failed": described(failure)}
        self.tidy()  # here, where the exception no longer holds the frames of what failed
        return found

    def _measured(self, run: Callable[[], object]) -> dict:
        """Slow ways run three times in all, very slow ones twice: compiling, then the clock and the memory at once."""
        if not self.toy:
            run()  # compiles kernels, and times their tiles
        gc.collect()
        before = self._start_memory()
        seconds, host = self._once(run)
        peak = torch.cuda.max_memory_allocated() - before if self.cuda else None
        times = [seconds]
        if seconds > _SLOW:
            times += [self._once(run)[0] for _ in range(0 if seconds > _VERY_SLOW else min(2, self.rounds) - 1)]
        elif not self.toy:
            run()
            ahead = self._ahead(host)
            times = [self._once(run, ahead)[0] for _ in range(self.rounds)]
        return {"seconds": statistics.median(times), "seconds_least": min(times), "peak_bytes": peak,
                "host_seconds": host, "rounds": len(times)}  # fmt: skip

    def _ahead(self, host: float) -> int:
        """Cycles for which the GPU is kept busy before the clock starts, so that all of a launch waits in its queue by
        then: kernels are timed, not Python. None of them where the host takes long: that is a whole program, whose user
        waits for it too."""
        return 0 if not self.cuda or host > _LONG_LAUNCH else int((2 * host + 5e-4) * self._cycles_per_second)

    @functools.cached_property
    def _cycles_per_second(self) -> float:
        cycles = 20_000_000
        return cycles / max(self._once(lambda: torch.cuda._sleep(cycles))[0], 1e-3)

    def tidy(self) -> None:
        """After a failure or a case, whose graphs would take the memory of the next. Sees whether the GPU is lost."""
        gc.collect()
        self.lost = self.lost or (self.cuda and gpu_is_lost())
        if self.cuda and not self.lost:
            torch.cuda.empty_cache()

    def _start_memory(self) -> int:
        if not self.cuda:
            return 0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def _once(self, run: Callable[[], object], ahead: int = 0) -> tuple[float, float]:
        """Seconds until ``run`` is done, and those that the host took for it. ``ahead``: see :meth:`_ahead`."""
        if not self.cuda:
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start,) * 2
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if ahead:
            torch.cuda._sleep(ahead)
        begin.record()
        start = time.perf_counter()
        run()
        host = time.perf_counter() - start
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3, host

    @functools.cached_property
    def product_rate(self) -> float | None:
        """Operations per second of a square bfloat16 product; None where that fails."""
        size = 64 if self.toy else 8192
        a, b = self.draw(size, size), self.draw(size, size)
        return _rate(2 * size**3, self.measure(lambda: a @ b))

    @functools.cached_property
    def copy_rate(self) -> float | None:
        """Bytes per second, read and written, of a copy."""
        a = torch.empty(1000 if self.toy else 2**31, dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        return _rate(2 * a.numel(), self.measure(lambda: b.copy_(a)))

    def rates(self) -> dict:
        """Those that were measured so far."""
        names = {"product_rate": "product_operations_per_second", "copy_rate": "copy_bytes_per_second"}
        return {shown: self.__dict__[name] for name, shown in names.items() if name in self.__dict__}

    def share_of_product_rate(self, result: dict, operations: float) -> None:
        """Adds to a measured ``result`` what share of the plain product's rate its operations were done at."""
        if "seconds" in result and self.product_rate:
            result["share_of_product_rate"] = operations / result["seconds"] / self.product_rate

    def share_of_copy_rate(self, result: dict, moved: float) -> None:
        if "seconds" in result and self.copy_rate:
            result["share_of_copy_rate"] = moved / result["seconds"] / self.copy_rate


def _rate(amount: float, result: dict) -> float | None:
    return amount / result["seconds"] if result.get("seconds") else None


def described(failure: BaseException) -> str:
    """Kind and first line: what a result file says of a failure."""
    words = str(failure).strip().splitlines() or [""]
    return f"{type(failure).__name__}: {words[0][:200]}"


def leave_out_imports() -> None:
    """What is imported now need not be looked through, a third of a second each time, when memory is tidied up between
    ways. To be called before anything is there that takes memory of the GPU: it would never be freed."""
    gc.collect()
    gc.freeze()


def gpu_is_lost() -> bool:
    """Whether an earlier error stays with this process: nothing more can be run on the GPU in it."""
    try:
        torch.cuda.synchronize()
    except Exception:  # of another type in every version of PyTorch
        return True
    return False


def error(got: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest error over the largest element of the truth."""
    return ((got.double() - truth.double()).abs().max() / truth.double().abs().max()).item()


def prefix(device: str) -> str:
    """What result files begin with: "h200" for an NVIDIA H200; "dry" where there is no GPU."""
    if device != "cuda":
        return "dry"
    name = torch.cuda.get_device_name().lower().removeprefix("nvidia ")
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")
