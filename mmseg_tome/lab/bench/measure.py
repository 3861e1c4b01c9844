"""Measuring forward passes and training steps: peak memory, time of many in turns, differences."""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MIB = 2**20
Forward = Callable[[], Tensor]

MEMORY_KIND = {
    "cuda": "growth of torch.cuda.max_memory_allocated during {what}, MiB",
    "cpu": "growth of the peak resident set (VmHWM) during {what}, least of 3, MiB",
}


def peak_memory(
    forward: Forward, device: torch.device, what: str = "one forward"
) -> tuple[float | None, str]:
    """Peak memory of ``what`` beyond what was resident before it (weights, input), in MiB.

    Returns the number and how it was measured, or None and the reason why it was not.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        forward()
        torch.cuda.synchronize(device)
        grown = torch.cuda.max_memory_allocated(device) - before
        return grown / MIB, MEMORY_KIND["cuda"].format(what=what)
    try:
        # The heap's fragmentation adds a random part; the least of a few passes has least of it.
        grown = min(_resident_growth(forward) for _ in range(3))
        return grown, MEMORY_KIND["cpu"].format(what=what)
    except (OSError, AttributeError) as error:
        return None, f"not measured: needs glibc and a writable /proc/self/clear_refs ({error})"


def release(device: torch.device) -> None:
    """Give memory that nothing uses any more back to a GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _resident_growth(forward: Forward) -> float:
    # Freed memory that the allocator kept would be reused unseen: hand it back first.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the current size
    before = _status_kib("VmRSS")
    forward()
    return max(_status_kib("VmHWM") - before, 0) / 1024


def _status_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def time_in_turns(
    forwards: Sequence,
    rounds: int,
    device: torch.device,
    min_sample_s: float = 0.02,
    on_sample: Callable[[], None] = lambda: None,
    seconds: float = math.inf,
    sample: Callable[[Any, int], float] | None = None,
) -> list[list[float]]:
    """Time every forward once per round, so that drift of the machine hits all alike.

    A sample is the mean of as many calls as fill ``min_sample_s`` (one for anything slower). Each
    round starts one variant further, so that none always follows the same neighbour. Callers
    warm up; one more untimed call here fixes the number of calls. A GPU has to be the current
    device, see `make_current`. ``sample`` takes the time in another way: of so many calls of one of
    ``forwards``, milliseconds a call.

    Returns ``rounds`` samples in milliseconds for each forward; fewer, but at least three, if they
    take longer than ``seconds``.
    """
    sample = sample or (_sample_cuda if device.type == "cuda" else _sample_cpu)
    samples: list[list[float]] = [[] for _ in forwards]
    calls = [math.ceil(min_sample_s * 1e3 / max(sample(f, 1), 1e-3)) or 1 for f in forwards]
    end = time.perf_counter() + seconds
    with no_garbage_collection():
        for i in range(rounds):
            if i >= 3 and time.perf_counter() > end:
                break
            for j in range(len(forwards)):
                k = (i + j) % len(forwards)
                samples[k].append(sample(forwards[k], calls[k]))
                on_sample()
    return samples


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect once before, and not while something is timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def make_current(device: torch.device) -> None:
    """Let CUDA events and synchronisation mean this device, if it is a GPU."""
    if device.type == "cuda" and device.index is not None:  # without one it is the current one
        torch.cuda.set_device(device)


def _sample_cpu(forward: Forward, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        forward()
    return (time.perf_counter() - start) / calls * 1e3


def _sample_cuda(forward: Forward, calls: int) -> float:
    total = 0.0
    for _ in range(calls):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()  # latency, launches included: no call overlaps the one before
        start.record()
        forward()
        end.record()
        end.synchronize()
        total += start.elapsed_time(end)
    return total / calls


def summarise(samples: list[float]) -> dict[str, float]:
    """Median and spread of latencies: quartiles, extremes, all in the unit of the samples."""
    q1, _, q3 = statistics.quantiles(samples, method="inclusive") if samples[1:] else samples * 3
    median = statistics.median(samples)
    return {"median": median, "q1": q1, "q3": q3, "min": min(samples), "max": max(samples)}


def relative_difference(a: Tensor, b: Tensor) -> float:
    """``|a - b| / |b|`` in the Euclidean norm, in float64; inf when the shapes differ."""
    if a.shape != b.shape:
        return math.inf
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))
