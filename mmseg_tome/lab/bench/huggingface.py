"""What `tools/benchmark_huggingface.py` does once its command line is read."""

from __future__ import annotations

import argparse
import copy
import platform

import torch
import transformers
from torch import nn

from mmseg_tome.config import read_device, read_size
from mmseg_tome.errors import UserError, first_line
from mmseg_tome.files import progress_of
from mmseg_tome.huggingface import apply_merging
from mmseg_tome.lab.bench import measure
from mmseg_tome.lab.bench.networks import NAMES, preset_model

SMALLEST = 32
"""Pixels of which the last stage makes one token."""

MAX_DIFFERENCE = dict(float32=1e-4, bfloat16=0.1, float16=0.1)
"""Relative; beyond it the model with fused attention does not compute what it did."""


def time_merging(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    if min(args.rounds, args.batch) < 1:
        raise UserError("--rounds and --batch must be at least 1")
    device = read_device(args.device)
    measure.make_current(device)
    size = read_size(args.size)
    if min(size) < SMALLEST:
        raise UserError(f"--size {args.size}: both sides must be at least {SMALLEST}")
    model = load(args.model).to(device, getattr(torch, args.dtype)).eval()
    channels = model.config.num_channels
    images = torch.randn(args.batch, channels, *size).to(model.device, model.dtype)
    models = {"as it is": model} | {preset: merged(model, preset) for preset in args.presets}
    check(model, merged(model, "none"), images, MAX_DIFFERENCE[args.dtype])
    forwards = [forward_of(each, images) for each in models.values()]
    for forward in forwards:
        forward()
    with progress_of("timings", args.rounds * len(forwards), every=len(forwards)) as advance:
        samples = measure.time_in_turns(
            forwards, args.rounds, device, on_sample=lambda: advance("")
        )
    print(report(dict(zip(models, samples, strict=True)), model, args))


def load(name: str) -> nn.Module:
    """A segmentor of transformers, of random weights if its name is that of a size."""
    if name in NAMES:
        ours = preset_model(name, ["none"])
        config = transformers.SegformerConfig(
            depths=ours.backbone["num_layers"],
            hidden_sizes=ours.head["in_channels"],
            decoder_hidden_size=768 if name > "b1" else 256,
            num_labels=150,
        )
        return transformers.SegformerForSemanticSegmentation(config)
    try:
        return transformers.SegformerForSemanticSegmentation.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model {name}: neither one of {', '.join(NAMES)}, nor could transformers load it: "
            f"{first_line(error)}"
        ) from None


def merged(model: nn.Module, preset: str) -> nn.Module:
    """A copy that merges."""
    return apply_merging(copy.deepcopy(model), None if preset == "none" else preset)


def check(model: nn.Module, fused: nn.Module, images: torch.Tensor, allowed: float) -> None:
    """Compare what no merging gives with the model as it was.

    Raises:
        UserError: They differ.
    """
    out, expected = (forward_of(each, images)() for each in (fused, model))
    difference = measure.relative_difference(out, expected)
    if not difference <= allowed:
        raise UserError(f"without merging the outputs differ by {difference:.1e} from the model's")


def forward_of(model: nn.Module, images: torch.Tensor) -> measure.Forward:
    """One pass, to logits."""

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        return model(images).logits

    return forward


def report(samples: dict[str, list[float]], model: nn.Module, args: argparse.Namespace) -> str:
    """A table, and what was measured with."""
    found = {name: measure.summarise(values) for name, values in samples.items()}
    base = found["as it is"]["median"]
    lines = [f"{'':10}{'ms':>9}{'quartiles':>18}{'x as it is':>12}"]
    for name, s in found.items():
        quartiles = f"{s['q1']:.1f}-{s['q3']:.1f}"
        lines.append(f"{name:10}{s['median']:9.1f}{quartiles:>18}{base / s['median']:11.2f}x")
    attention = getattr(model.config, "_attn_implementation", None) or "its own"
    gpu = model.device.type == "cuda"
    device = torch.cuda.get_device_name(model.device) if gpu else "CPU"
    lines.append(
        f"{args.model}, batch {args.batch}, {args.size}, {args.dtype}, {device}: median of "
        f"{args.rounds} interleaved rounds; attention as it is: {attention}"
    )
    lines.append(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}"
    )
    return "\n".join(lines)
