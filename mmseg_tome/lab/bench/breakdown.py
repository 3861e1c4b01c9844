"""Where the time of one forward pass goes: milliseconds of each part, beside its floor."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from . import floor, measure
from .parts import OTHER, PARTS, REST, Call, watch
from .rates import Rates

DEFINITIONS = {
    "ms": "milliseconds of the part in one eager forward pass of the batch, medians over passes of "
    "their own under torch.profiler, apart from latency_ms. On a GPU: of its kernels, without "
    "waiting for their launch. On a CPU: all that its calls take",
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

_MARK = "part: "
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


def measure_parts(
    net: nn.Module, forward: measure.Forward, device: torch.device, rounds: int, rates: Rates
) -> dict[str, dict[str, float]]:
    """Time and floor of each part of a pipeline, see `DEFINITIONS`.

    Parts that run no operator are left out. The last entry is `rest`; the ``ms`` of all entries
    add up to the whole pass.

    Args:
        net: A `networks.Pipeline` that ran before: caches are filled.
        forward: Runs it once.
        device: Where it runs.
        rounds: Passes to take medians over.
        rates: What the device can do.
    """
    with measure.no_garbage_collection():
        passes = [times_of_parts(trace(net, forward, device)) for _ in range(rounds + 1)][1:]
    ms = {p: statistics.median(times.get(p, 0.0) for times in passes) for p in set().union(*passes)}
    whole = sum(ms.values())
    if device.type == "cuda":
        (samples,) = measure.time_in_turns([forward], rounds, device)
        whole = statistics.median(samples)
    floors = floor.floors(*floor.record(net, forward), rates)
    rows = {part: {"ms": ms.get(part, 0.0), **floors[part]} for part in PARTS if part in floors}
    rest = whole - sum(row["ms"] for row in rows.values())
    return rows | {REST: {"ms": rest, **dict.fromkeys(floor.COLUMNS, 0.0)}}


def trace(net: nn.Module, forward: measure.Forward, device: torch.device) -> list[dict]:
    """Events of one pass in Chrome's format, among them a mark for each piece of a part."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports every start and stop
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    mark = ExitStack()

    def switch(call: Call) -> None:
        mark.close()
        mark.enter_context(record_function(_MARK + call.part))

    with profile(activities=activities) as profiler, watch(net, switch):
        with mark:
            switch(Call(OTHER))
            forward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


def times_of_parts(events: Iterable[dict]) -> dict[str, float]:
    """Milliseconds of each part in a `trace`.

    Where kernels ran on a GPU, of those that the part launched; else of the part itself.
    """
    kinds: dict[str, list[dict]] = defaultdict(list)
    for event in events:
        kinds[event.get("cat", "")].append(event)
    marks = [mark for mark in kinds["user_annotation"] if mark["name"].startswith(_MARK)]
    marks.sort(key=lambda mark: mark["ts"])
    starts = [mark["ts"] for mark in marks]
    launched = {e["args"]["correlation"]: e["ts"] for kind in _LAUNCHES for e in kinds[kind]}
    pieces = [(mark, mark["dur"]) for mark in marks]
    if work := [event for kind in _GPU_WORK for event in kinds[kind]]:
        begun = [launched.get(event["args"]["correlation"], 0.0) for event in work]
        pieces = [
            (marks[bisect_right(starts, at) - 1], event["dur"])
            for at, event in zip(begun, work, strict=True)
            if at >= starts[0]
        ]
    ms: dict[str, float] = defaultdict(float)
    for mark, microseconds in pieces:
        ms[mark["name"].removeprefix(_MARK)] += microseconds / 1e3
    return dict(ms)
