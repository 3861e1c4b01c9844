"""What `tools/benchmark.py` does once its command line is read."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmseg_tome.config import TRUST_VARIABLE, check_counts, read_device, read_size
from mmseg_tome.files import make_folder
from mmseg_tome.lab.bench import inference, networks, plots, results, tables, training
from mmseg_tome.lab.bench.as_typed import session as as_typed
from mmseg_tome.lab.bench.cases import Case, Settings, Weights
from mmseg_tome.lab.bench.networks import Model, UsageError
from mmseg_tome.lab.bench.rates import Rates, measure_rates
from mmseg_tome.merging import TomeConfigError, parse_tome_cfg
from mmseg_tome.runtime.precision import DTYPES as HALF

# Beyond this the two pipelines do not compute the same thing. A few near-ties that rounding
# decides differently stay far below it; half precision decides many, so it is not judged.
MAX_DIFFERENCE = {"float32": 1e-2, "float64": 1e-4}


def benchmark(args: argparse.Namespace) -> int:
    """Do what the command line says; 0 when everything was measured and agrees, 1 when not."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    if args.as_typed is not None:
        return as_typed.run(args, console)
    models = select_models(args)
    check_usage(args, models)
    return run(args, models, console)


def select_models(args: argparse.Namespace) -> list[Model]:
    """The models that the command line names."""
    names = args.models or ([] if args.configs else ["b0"])
    networks.check_names("model", names, networks.NAMES)
    networks.check_names("preset", args.presets, tuple(networks.PRESETS))
    presets = list(dict.fromkeys(args.presets))
    models = [networks.preset_model(name, presets) for name in dict.fromkeys(names)]
    return models + networks.config_models(list(dict.fromkeys(args.configs)))


def check_usage(args: argparse.Namespace, models: list[Model]) -> None:
    """Refuse what cannot work before anything is built.

    Raises:
        UsageError: Says what and, where there is a way out, which.
    """
    check_counts(args, "rounds", "threads", "batch")
    for name in args.device:
        read_device(name)
    check_combinations(args)
    if args.checkpoint and len(models) != 1:
        raise UsageError(f"--checkpoint fits one model, {len(models)} were given")
    for model in models:
        if not model.is_segformer:  # building says what is wrong: a stage is something else there
            continue
        for variant, options in model.variants.items():
            try:
                parse_tome_cfg(options.get("tome_cfg"), model.backbone.get("num_stages", 4))
            except TomeConfigError as error:
                raise UsageError(f"{variant}: {error}") from None
        halved = any(options.get("down_sample") for options in model.variants.values())
        least = 64 if halved else 32
        for height, width in sizes_of(model, args):
            if min(height, width) < least:
                raise UsageError(
                    f"size {height}x{width} is too small for {model.name}"
                    f"{' with downsampling' if halved else ''}: sides must be at least {least}"
                )


def check_combinations(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, or with what is installed.

    Raises:
        UsageError: Says which and why.
    """
    further = [
        option
        for option, asked in (
            ("leave out --fused-peer", args.fused_peer),
            ("leave out --compiled-peer", args.compiled_peer),
            ("pass --no-peer", args.peer),
        )
        if asked
    ]
    if further:
        try:
            import tomesd.merge  # noqa: F401
        except ImportError:
            way_out = f"pip install tomesd, or {further[0]}"
            raise UsageError(f"the peer pipeline needs tomesd: {way_out}") from None
    half = [name for name in args.dtype if name in HALF]
    if args.autocast and set(args.dtype) - set(HALF):
        raise UsageError("--autocast needs --dtype bfloat16 or float16")
    if args.graphs and args.compile:
        raise UsageError("--graphs and --compile are two ways to launch kernels: give one of them")
    if args.compiled_peer and args.compile:
        raise UsageError("--compile compiles the fused peer as well: leave out --compiled-peer")
    if args.train and args.breakdown:
        raise UsageError("--breakdown takes a forward pass apart, not --train's steps")
    if args.train and half and not args.autocast:
        raise UsageError(f"--train keeps weights in float32: --dtype {half[0]} needs --autocast")


def sizes_of(model: Model, args: argparse.Namespace) -> list[tuple[int, int]]:
    """The (H, W) to run a model at."""
    return [read_size(text) for text in args.size or ()] or [model.size or (1024, 1024)]


def initial_weights(model: Model, args: argparse.Namespace) -> Weights:
    """One set of weights for both pipelines, each in the memory format it builds them in."""
    torch.manual_seed(0)
    net = networks.build(model, {}, of_peer=False, part=args.part)
    if args.checkpoint:
        if args.trust_checkpoint:
            os.environ[TRUST_VARIABLE] = "1"
        networks.load_checkpoint(net, args.checkpoint)
    ours = net.state_dict()
    # Ours are channels-last. Stock weights are not, and a convolution follows its weight's
    # strides, even those of a 1x1 kernel, which `contiguous()` would leave as they are.
    stock = {k: v.clone(memory_format=torch.contiguous_format) for k, v in ours.items()}
    return {"ours": ours, "peer": stock}


def run(args: argparse.Namespace, models: list[Model], console: Console) -> int:
    """Measure every case and report; returns the exit code."""
    if args.threads:
        torch.set_num_threads(args.threads)
    make_folder(args.out)
    devices = [torch.device(name) for name in dict.fromkeys(args.device)]
    env = results.environment(devices)
    arguments = results.plain(args)
    settings = Settings(**{f.name: arguments[f.name] for f in fields(Settings)})
    rates = device_rates(args, devices) if args.breakdown else {}
    rows: list[dict] = []
    for model in models:
        weights = initial_weights(model, args)
        for axes in itertools.product(sizes_of(model, args), args.batch, args.dtype, devices):
            case = Case(model, *axes, settings)
            new = measure_case(case, weights, rates.get(case.device))
            tables.print_case(new, console)
            rows += new
            if rates:
                tables.print_breakdown(new, rates[case.device], console)
                env["rates"] = {str(device): rate.report() for device, rate in rates.items()}
            # After every case, so that a run that is killed keeps what it measured.
            results.write_json(args.out / "benchmark.json", env, arguments, rows)
    tables.print_environment(env, rows, console)
    plots.write_latencies(args.out / "benchmark.png", env, rows)
    written = ["benchmark.json", "benchmark.png"]
    if plots.write_presets(args.out / "presets.png", env, rows):
        written.append("presets.png")
    if args.breakdown:
        plots.write_breakdown(args.out / "breakdown.png", env, rows)
        written.append("breakdown.png")
    console.print(f"Wrote {' and '.join(written)} to {args.out}", highlight=False)
    return verdict(rows, args)


def device_rates(
    args: argparse.Namespace, devices: list[torch.device]
) -> dict[torch.device, Rates]:
    """Copy and matmul rates of each device, for floors."""
    dtypes = [getattr(torch, name) for name in args.dtype]
    if args.autocast:  # weights stay float32, and some operators too
        dtypes.append(torch.float32)
    return {device: measure_rates(device, dtypes) for device in devices}


def measure_case(case: Case, weights: Weights, rates: Rates | None) -> list[dict]:
    """The rows of a case, measured under a progress bar."""
    measure: Callable[[Case, Weights, Callable], list[dict]]
    if case.settings.train:
        measure, total = training.run_case, training.steps(case)
    else:
        measure = partial(inference.run_case, rates=rates)
        total = inference.steps(case, bool(rates))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task(results.title([case.key()]), total=total)
        return measure(case, weights, lambda: progress.advance(task))


def verdict(rows: list[dict], args: argparse.Namespace) -> int:
    """1, with a line for each reason, if one of our variants failed or outputs differ."""
    bad = []
    for row in rows:
        limit = MAX_DIFFERENCE.get(row["dtype"])
        error = row["error"] or row.get("breakdown_error")
        name = f"{results.title([row])}, {row['variant']}"
        if row["pipeline"] != "ours":
            name += f", {row['pipeline']}"
        if error and networks.is_ours(row["pipeline"]):
            bad.append(f"{name}: {error}")
        elif args.check and limit and row["difference"] and not row["difference"] < limit:
            bad.append(
                f"{name}: outputs differ from the {row['reference']}'s by "
                f"{row['difference']:.1e} (allowed {limit:g})"
            )
    for line in bad:
        print(f"benchmark.py: {line}", file=sys.stderr)
    return 1 if bad else 0
