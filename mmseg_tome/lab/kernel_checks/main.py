"""What `tools/check_kernels.py` does once its command line is read."""

import argparse
import os
import time

import torch

from mmseg_tome import ops
from mmseg_tome.errors import UserError
from mmseg_tome.lab.kernel_checks.compiling import compile_for
from mmseg_tome.lab.kernel_checks.problems import Block, Case, Labels, Merger, Problem

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Relative to the norm of the reference. Interpreted float32 may be rounded to half by truncation.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
PROBLEMS = (Merger, Block, Labels)


def as_tuple(result) -> tuple:
    return result if isinstance(result, tuple) else (result,)


def run(problem: Problem) -> dict[str, tuple]:
    """The results of all operations."""
    return {name: as_tuple(getattr(problem, name)()) for name in problem._operations()}


def check(problem: Problem) -> list[str]:
    """What is wrong with the kernels at one shape, compared with the twins in float64."""
    wrong = []
    ops.set_backend("triton")
    results, again = run(problem), run(problem)
    for name, values in results.items():
        if not all(map(torch.equal, values, again[name])):
            wrong.append(f"{name}: two runs differ")
    if isinstance(problem, Merger):
        wrong += check_capturing(problem, results["whole_merge"][0])
    ops.set_backend("torch")
    problem._widen()
    for name, values in results.items():
        if name in problem._not_unique:
            continue
        for result, twin in zip(values, as_tuple(getattr(problem, name)()), strict=True):
            if twin.is_floating_point():
                error = ((result.double() - twin).norm() / twin.norm().clamp(1e-3)).item()
                if not error <= LIMITS[problem.dtype]:
                    wrong.append(f"{name}: off by {error:.1e}")
            elif not torch.equal(result, twin):
                wrong.append(f"{name}: {(result != twin).sum()} indices differ")
    return wrong + problem._judge(results)


def check_capturing(problem: Merger, expected: torch.Tensor) -> list[str]:
    """Whether compilers and CUDA graphs leave a merger's result as it is."""
    wrong = []
    torch._dynamo.reset()
    compiled = torch.compile(problem.whole_merge, fullgraph=True, backend="aot_eager")
    if not torch.equal(compiled(), expected):
        wrong.append("whole_merge: torch.compile changes the result")
    if problem.x.is_cuda:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = problem.whole_merge()
        graph.replay()
        if not torch.equal(replayed, expected):
            wrong.append("whole_merge: a CUDA graph changes the result")
    return wrong


def timer(device: str):
    """A function that times a call in microseconds."""
    if device == "cuda":
        from triton.testing import do_bench_cudagraph

        return lambda call: 1e3 * do_bench_cudagraph(call, rep=20, return_mode="median")

    def seconds(call):
        start = time.perf_counter()
        call()
        return 1e6 * (time.perf_counter() - start)

    return seconds


def compare_times(case: Case, problem: Problem, device: str) -> None:
    """Print a row for each operation: torch, Triton, their ratio, the floor."""
    floors, measure = problem._floors(), timer(device)
    for name in problem._operations():
        times = {}
        for backend in ("torch", "triton"):
            ops.set_backend(backend)
            # As under autocast: float32 products may be rounded, in both.
            rounded = problem.dtype == torch.float32 and device == "cuda"
            try:
                with torch.autocast(device, enabled=rounded):
                    times[backend] = measure(getattr(problem, name))
            except torch.cuda.OutOfMemoryError:  # the twin's matrix of scores
                times[backend] = float("nan")
        ratio = times["torch"] / times["triton"]
        print(
            f"{case!s:20} {str(problem.dtype)[6:]:9} {name:29}{times['torch']:11.1f}"
            f"{times['triton']:11.1f}{ratio:8.2f}x{floors[name]:10.1f}",
            flush=True,
        )


def check_kernels(args: argparse.Namespace) -> int:
    """Run the checks, then the timings; 1 if a kernel is wrong."""
    if args.compile:
        compile_for(args.compile, DTYPES[1:2] if args.tiny else DTYPES, args.tiny)
        return 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        if not args.tiny:
            raise UserError("no GPU here; --tiny runs in Triton's interpreter")
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, at its first use
    try:
        ops.set_backend("triton")
    except ops.BackendError as error:
        raise UserError(str(error)) from None
    name = torch.cuda.get_device_name() if device == "cuda" else "interpreter, times mean nothing"
    print(f"torch {torch.__version__}, {name}")
    # Layer norm of few channels amplifies rounding by 1 / sqrt(eps): no result is right.
    small = [Case(2, 12, 40), Case(1, 9, 7), Case(1, 8, 8)]
    stages = [Case(8, 64), Case(1, 128), Case(1, 256)]
    large = [Case(1, 512, 64)]  # 262144 tokens; only checked, with scores of 32 GB in float64
    failures = 0
    for case in small if args.tiny else small + stages + large:
        for dtype in DTYPES:
            ops.set_backend("triton")
            wrong = [w for problem in PROBLEMS for w in check(problem(case, dtype, device))]
            failures += len(wrong)
            print(f"{case!s:20} {str(dtype)[6:]:9} {'; '.join(wrong) or 'ok'}", flush=True)
    print(
        f"\n{'tokens':20} {'dtype':9} {'operation':29}{'torch us':>11}{'triton us':>11}"
        f"{'faster':>9}{'floor us':>10}"
    )
    for case in small[:1] if args.tiny else stages:
        for dtype in DTYPES[:2]:
            for problem in PROBLEMS:
                ops.set_backend("triton")
                compare_times(case, problem(case, dtype, device), device)
    return failures > 0
