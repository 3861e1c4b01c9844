"""Check the Triton kernels against their torch twins, then time both side by side.

    python tools/check_kernels.py               # on a GPU: everything, about three minutes
    python tools/check_kernels.py --tiny        # anywhere: tiny sizes, in Triton's interpreter
    python tools/check_kernels.py --compile 90  # anywhere: only compile, for an H100 or H200;
                                                # with --tiny a few of the kernels

The shapes are stage 3 of MiT-B5 under the preset hq: ratio 0.8, stride 4x4, 320 channels. Times
are medians of device time from CUDA graphs, without launch overhead; the floor is the larger of
the bytes over 3.0 TB/s and the FLOP over 800 TFLOP/s (float32: 400, which is tf32), see
docs/performance.md. Needs torch and Triton, no mm package.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from typing import NamedTuple

import torch

from mmseg_tome import ops
from mmseg_tome.merging import BipartiteMatching
from mmseg_tome.merging.strategies.bipartite import split_cells

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Relative to the norm of the reference. Interpreted float32 may be rounded to half by truncation.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
BYTES_PER_S, FLOP_PER_S = 3.0e12, {torch.float32: 400e12}
STRATEGY = BipartiteMatching(0.8, (4, 4))


class Case(NamedTuple):
    """One stage's tokens."""

    batch: int
    side: int
    channels: int = 320

    def __str__(self):
        return f"{self.batch} x {self.side}x{self.side} x {self.channels}"


class Inputs:
    """Everything that the operations of one merger take, on one device."""

    def __init__(self, case: Case, dtype: torch.dtype, device: str):
        hw = (case.side, case.side)
        self.tokens = case.side**2
        self.num_slots = STRATEGY.num_slots(hw)
        self.r = self.tokens - self.num_slots
        split = split_cells(hw, STRATEGY.stride, torch.device(device))
        self.src, self.dst = split.src, split.dst

        def random(rows):
            return torch.randn(case.batch, rows, case.channels, device=device).to(dtype)

        self.x, self.residual = random(self.tokens), random(self.tokens)
        self.y = random(self.num_slots)
        self.similarity, self.nearest = ops.match(self.x, self.src, self.dst)
        self.slot = self.assign()
        self.order = ops.segment_order(self.slot, self.num_slots)

    def match(self):
        return ops.match(self.x, self.src, self.dst)

    def assign(self):
        pairs = self.similarity, self.nearest
        return ops.assign(*pairs, self.r, self.src, self.dst, self.tokens)

    def segment_order(self):
        if ops.get_backend() == "triton":
            return ops.segment_order(self.slot, self.num_slots)
        return ops.segment.segment_order(self.slot, self.num_slots)

    def segment_mean(self):
        return ops.segment_mean(self.x, self.slot, self.num_slots, self.order)

    def gather_segments(self):
        return ops.gather_segments(self.y, self.slot, self.order)

    def gather_segments_add(self):
        return ops.gather_segments_add(self.y, self.slot, self.residual, self.order)

    def segment_mean_and_grad(self):
        x = self.x.detach().requires_grad_()
        mean = ops.segment_mean(x, self.slot, self.num_slots, self.order)
        return mean, torch.autograd.grad(mean, x, self.y)[0]

    def gather_segments_add_and_grad(self):
        y, residual = self.y.detach().requires_grad_(), self.residual.detach().requires_grad_()
        out = ops.gather_segments_add(y, self.slot, residual, self.order)
        return out, *torch.autograd.grad(out, (y, residual), self.x)

    def whole_merge(self):
        """From tokens to their update: what a block does around its attention."""
        pairs = ops.match(self.x, self.src, self.dst)
        slot = ops.assign(*pairs, self.r, self.src, self.dst, self.tokens)
        order = ops.segment_order(slot, self.num_slots)
        mean = ops.segment_mean(self.x, slot, self.num_slots, order)
        return ops.gather_segments_add(mean, slot, self.residual, order)

    def floors(self) -> dict[str, float]:
        """Microseconds that memory and arithmetic allow."""
        batch, tokens, channels = self.x.shape
        size = self.x.element_size()
        row, pairs = channels * size, len(self.src) * len(self.dst)
        full, merged = batch * tokens * row, batch * self.num_slots * row
        index = 8 * batch * tokens
        flop = 2 * batch * pairs * channels
        data = {
            "match": full + 12 * batch * len(self.src),
            "assign": 3 * index,
            "segment_order": 2 * index,
            "segment_mean": full + merged,
            "gather_segments": merged + full + index,
            "gather_segments_add": merged + 2 * full + index,
        }
        data["segment_mean_and_grad"] = 2 * (full + merged)
        data["gather_segments_add_and_grad"] = 2 * merged + 3 * full + index
        data["whole_merge"] = 4 * full
        floors = {name: 1e6 * moved / BYTES_PER_S for name, moved in data.items()}
        peak = 1e-6 * FLOP_PER_S.get(self.x.dtype, 800e12)
        for name in ("match", "whole_merge"):
            floors[name] = max(floors[name], flop / peak)
        return floors


OPERATIONS = tuple(name for name in vars(Inputs) if not name.startswith("_") and name != "floors")


def as_tuple(result) -> tuple:
    return result if isinstance(result, tuple) else (result,)


def check(case: Case, dtype: torch.dtype, device: str) -> list[str]:
    """What is wrong with the kernels at one shape, compared with the twins in float64."""
    wrong = []
    ops.set_backend("triton")
    inputs = Inputs(case, dtype, device)
    results = {name: as_tuple(getattr(inputs, name)()) for name in OPERATIONS}
    again = {name: as_tuple(getattr(inputs, name)()) for name in OPERATIONS}
    for name in OPERATIONS:
        if not all(map(torch.equal, results[name], again[name])):
            wrong.append(f"{name}: two runs differ")
    torch._dynamo.reset()
    merged = results["whole_merge"][0]
    if not torch.equal(
        torch.compile(inputs.whole_merge, fullgraph=True, backend="aot_eager")(), merged
    ):
        wrong.append("whole_merge: torch.compile changes the result")
    if device == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = inputs.whole_merge()
        graph.replay()
        if not torch.equal(replayed, merged):
            wrong.append("whole_merge: a CUDA graph changes the result")
    ops.set_backend("torch")
    for name in ("x", "y", "residual"):
        setattr(inputs, name, getattr(inputs, name).double())
    for name in OPERATIONS:
        if name in ("match", "whole_merge"):
            continue
        for result, twin in zip(results[name], as_tuple(getattr(inputs, name)()), strict=True):
            if twin.is_floating_point():
                error = ((result.double() - twin).norm() / twin.norm()).item()
                if not error <= LIMITS[dtype]:
                    wrong.append(f"{name}: off by {error:.1e}")
            elif not torch.equal(result, twin):
                wrong.append(f"{name}: {(result != twin).sum()} indices differ")
    # Sample by sample, and against the score of the chosen destination: rounding decides near-ties.
    for b, x in enumerate(torch.nn.functional.normalize(inputs.x, dim=-1)):
        scores = x[inputs.src] @ x[inputs.dst].T  # [S, D]
        similarity, nearest = (t[b] for t in results["match"])
        best = scores.amax(1)
        chosen = scores.gather(1, nearest[:, None])[:, 0]
        error = max((similarity - best).abs().max().item(), (best - chosen).max().item())
        if not error <= 1e-5:
            wrong.append(f"match: similarity off by {error:.1e} in sample {b}")
    return wrong


def timer(device: str):
    """A function that times a call in microseconds."""
    if device == "cuda":
        from triton.testing import do_bench_cudagraph

        return lambda call: 1e3 * do_bench_cudagraph(call, rep=50, return_mode="median")

    def seconds(call):
        start = time.perf_counter()
        call()
        return 1e6 * (time.perf_counter() - start)

    return seconds


def compare_times(case: Case, dtype: torch.dtype, device: str) -> None:
    """Print a row for each operation: torch, Triton, their ratio, the floor."""
    ops.set_backend("triton")
    inputs = Inputs(case, dtype, device)
    floors, measure = inputs.floors(), timer(device)
    for name in OPERATIONS:
        times = {}
        for backend in ("torch", "triton"):
            ops.set_backend(backend)
            try:
                # As under autocast: float32 products may be rounded, in both.
                with torch.autocast(device, enabled=dtype == torch.float32 and device == "cuda"):
                    times[backend] = measure(getattr(inputs, name))
            except torch.cuda.OutOfMemoryError:  # the twin's matrix of scores
                times[backend] = float("nan")
        ratio = times["torch"] / times["triton"]
        print(
            f"{case!s:20} {str(dtype)[6:]:9} {name:29}{times['torch']:11.1f}"
            f"{times['triton']:11.1f}{ratio:8.2f}x{floors[name]:10.1f}",
            flush=True,
        )


def compile_for(capability: int, tiny: bool) -> None:
    """Compile every kernel as it would be launched, without a GPU."""
    os.environ.pop("TRITON_INTERPRET", None)
    import triton
    from triton.backends.compiler import GPUTarget

    from mmseg_tome.ops import assignment_triton, matching_triton, segment_triton

    class NoDriver:
        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", capability, 32))

    shared_memory = defaultdict(dict)
    launch = triton.JITFunction.run

    def only_compile(kernel, *args, grid, warmup, **options):
        compiled = launch(kernel, *args, grid=grid, warmup=True, **options)
        shared_memory[compiled.name][compiled.hash] = compiled.metadata.shared

    triton.runtime.driver.set_active(NoDriver())
    triton.JITFunction.run = only_compile
    shapes = [(1, 12, 1, 7), (8, 3840, 256, 320), (1, 960, 64, 512), (1, 61440, 4096, 320)]
    for dtype in DTYPES[1:2] if tiny else DTYPES:
        for batch, num_src, num_dst, channels in shapes[:2] if tiny else shapes:
            tokens, num_slots = num_src + num_dst, num_dst + num_src // 4
            x = torch.empty(batch, tokens, channels, dtype=dtype, device="meta")
            src, dst = (
                torch.empty(n, dtype=torch.int64, device="meta") for n in (num_src, num_dst)
            )
            for tf32 in (False, True):
                pairs = matching_triton.match(x, src, dst, tf32)
            slot = assignment_triton.assign(*pairs, tokens - num_slots, src, dst, tokens)
            order = segment_triton.segment_order(slot, num_slots)
            for mean in (True, False):
                y = segment_triton.reduce(x, slot, *order, mean)
                segment_triton.expand(y, slot, order[1], x if mean else x.float(), False)
                segment_triton.expand(y, slot, order[1], None, mean)
    for kernel, variants in sorted(shared_memory.items()):
        most = max(variants.values())
        print(f"{kernel:22}{len(variants):4} variants, at most {most:6} bytes of shared memory")
    print(f"{len(shared_memory)} kernels compile for compute capability {capability / 10}")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on the CPU without a GPU")
    parser.add_argument("--compile", type=int, metavar="SM", help="for this capability, e.g. 90")
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    """Run the checks, then the timings; 1 if a kernel is wrong."""
    if args.compile:
        compile_for(args.compile, args.tiny)
        return 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        if not args.tiny:
            sys.exit("check_kernels.py: error: no GPU here; --tiny runs in Triton's interpreter")
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, at its first use
    try:
        ops.set_backend("triton")
    except ops.BackendError as error:
        sys.exit(f"check_kernels.py: error: {error}")
    name = torch.cuda.get_device_name() if device == "cuda" else "interpreter, times mean nothing"
    print(f"torch {torch.__version__}, {name}")
    small = [Case(2, 12, 40), Case(1, 9, 7), Case(1, 8, 1)]
    stages = [Case(8, 64), Case(1, 128), Case(1, 256)]
    failures = 0
    for case in small if args.tiny else small + stages:
        for dtype in DTYPES:
            wrong = check(case, dtype, device)
            failures += len(wrong)
            print(f"{case!s:20} {str(dtype)[6:]:9} {'; '.join(wrong) or 'ok'}", flush=True)
    print(
        f"\n{'tokens':20} {'dtype':9} {'operation':29}{'torch us':>11}{'triton us':>11}"
        f"{'faster':>9}{'floor us':>10}"
    )
    for case in small[:1] if args.tiny else stages:
        for dtype in DTYPES[:2]:
            compare_times(case, dtype, device)
    return failures > 0


if __name__ == "__main__":
    sys.exit(main(parse_args()))
