"""Where the time of one forward pass goes: milliseconds of each part, beside its floor."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn

from . import floor, measure
from .parts import OTHER, PARTS, REST, Call, watch
from .rates import Rates

DEFINITIONS = {
    "ms": "milliseconds of the part in one eager forward pass of the batch, medians over passes of "
    "their own, apart from latency_ms. On a GPU: while its kernels run, without waiting for their "
    "launch. On a CPU: all that its calls take",
    "floor_ms": "sum over the operators that ran, as they are cut today, of the larger of bytes "
    "moved / copy rate and FLOPs / matmul rate of the precision (environment.rates). Inputs are "
    "read once, outputs written once, views are free. A fused kernel can go below, and so can "
    "tensors that stay in a cache",
    "fused_floor_ms": "the same if each call of a part were one kernel: it reads what it needs "
    "from outside once, parameters included, and writes what others read once",
    "gflops": "10^9 floating-point operations of the batch, counted as in gflops above",
    "mbytes": "10^6 bytes that the operators move, of the batch",
    REST: "the whole pass minus all parts. On a GPU: waiting for launches, negative where noise "
    "exceeds that. On a CPU: calls that run no operator",
    **PARTS,
}


def measure_parts(
    net: nn.Module, forward: measure.Forward, device: torch.device, rounds: int, rates: Rates
) -> dict[str, dict[str, float]]:
    """Time and floor of each part of a pipeline, see `DEFINITIONS`.

    Parts that run no operator are left out. The last entry is `rest`; the ``ms`` of all entries
    add up to the whole pass.

    Args:
        net: A `cases.Pipeline` that ran before: caches are filled.
        forward: Runs it once.
        device: Where it runs.
        rounds: Passes to take medians over.
        rates: What the device can do.
    """
    ms, whole = time_parts(net, forward, device, rounds)
    floors = floor.floors(*floor.record(net, forward), rates)
    rows = {part: {"ms": ms.get(part, 0.0), **floors[part]} for part in PARTS if part in floors}
    rest = whole - sum(row["ms"] for row in rows.values())
    return rows | {REST: {"ms": rest, **dict.fromkeys(floor.COLUMNS, 0.0)}}


def time_parts(
    net: nn.Module, forward: measure.Forward, device: torch.device, rounds: int
) -> tuple[dict[str, float], float]:
    """Median milliseconds of each part, nested ones subtracted, and of the whole pass.

    On a GPU the whole pass is timed without cuts. On a CPU it is what its parts add up to.
    """
    on_gpu = device.type == "cuda"
    clock = CudaClock() if on_gpu else CpuClock()
    with watch(net, clock.switch), measure.no_garbage_collection():
        clock.time(forward)  # fills caches; shows the GPU's clock how long launches take
        passes = [clock.time(forward) for _ in range(rounds)]
    parts = {part for times in passes for part in times}
    ms = {part: statistics.median(times.get(part, 0.0) for times in passes) for part in parts}
    if on_gpu:
        (samples,) = measure.time_in_turns([forward], rounds, device)
        return ms, statistics.median(samples)
    return ms, sum(ms.values())


class CpuClock:
    """Cuts a pass wherever the part changes, by the time of day."""

    def time(self, forward: Callable[[], object]) -> dict[str, float]:
        """Milliseconds of each part of one pass; together, all of it."""
        self._ms: dict[str, float] = defaultdict(float)
        self._part, self._since = OTHER, time.perf_counter()
        forward()
        self.switch(Call(OTHER))
        return dict(self._ms)

    def switch(self, call: Call) -> None:
        """Another part runs from now on."""
        now = time.perf_counter()
        self._ms[self._part] += (now - self._since) * 1e3
        self._part, self._since = call.part, now


class CudaClock:
    """Cuts a pass wherever the part changes; times the GPU alone, without waits for launches.

    Before each piece the GPU is kept busy with a spin kernel for longer than the CPU takes to
    launch the piece (as measured in the first pass), so that its kernels run back to back; CUDA
    events before and after then time the kernels. What two events with nothing between them show is
    subtracted. Works on the current device and stream.
    """

    CYCLES_PER_S = 2.2e9
    """At least the GPU's clock rate, so that a spin is never too short."""
    MARGIN_S = 5e-5

    def __init__(self):
        self._start, self._stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._empty_ms, self._leads = 0.0, [0.0]
        self._empty_ms = statistics.median(self.time(lambda: None)[OTHER] for _ in range(20))
        self._leads = []  # seconds that launching each piece takes, from the first pass

    def time(self, forward: Callable[[], object]) -> dict[str, float]:
        """Milliseconds that the GPU works for each part of one pass; forget those of the first."""
        self._ms: dict[str, float] = defaultdict(float)
        self._launches: list[float] = []
        self._begin(OTHER)
        forward()
        self._end()
        self._leads = self._leads or self._launches
        return dict(self._ms)

    def switch(self, call: Call) -> None:
        """Another part runs from now on."""
        self._end()
        self._begin(call.part)

    def _begin(self, part: str) -> None:
        torch.cuda.synchronize()
        piece = len(self._launches)
        known = self._leads[piece : piece + 1] or self._leads or [0.0]
        torch.cuda._sleep(int((1.5 * max(known) + self.MARGIN_S) * self.CYCLES_PER_S))
        self._start.record()
        self._part, self._since = part, time.perf_counter()

    def _end(self) -> None:
        self._stop.record()
        self._launches.append(time.perf_counter() - self._since)
        self._stop.synchronize()
        ms = self._start.elapsed_time(self._stop) - self._empty_ms
        self._ms[self._part] += max(ms, 0.0)
