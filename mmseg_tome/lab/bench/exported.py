"""What `tools/benchmark_export.py` does once its command line is read."""

import argparse
import platform
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from rich.console import Console
from rich.progress import track

from mmseg_tome.config import is_pose, read_config, read_size
from mmseg_tome.errors import UserError
from mmseg_tome.export import onnx_file, parity, program
from mmseg_tome.export.metadata import OUTPUT, Metadata, threshold_of
from mmseg_tome.export.network import Network
from mmseg_tome.export.runtime import OnnxNetwork
from mmseg_tome.lab.bench.measure import summarise, time_in_turns

NONE = "none"


def time_exported(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mm(seg|pose|engine)\.")
    onnx_file.check(args.opset)
    size = read_size(args.size)
    if min(args.rounds, args.threads) < 1:
        raise UserError("--rounds and --threads must be at least 1")
    cfg = read_config(args)
    torch.set_num_threads(args.threads)
    runs: dict[tuple[str, str], Callable[[], object]] = {}
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        for preset in track(args.presets, "exporting", console=console):
            network, metadata = build(cfg, preset, size)
            images = program.smooth_images(size, channels=network.channels)
            path = Path(folder) / f"{preset}.onnx"
            traced = program.trace(network, size, scores_mib=args.scores_mib)
            onnx_file.write(traced, path, metadata, args.opset)
            exported = OnnxNetwork(path, args.threads)
            found = parity.compare(
                exported(images.numpy()), run(network, images), metadata.task, metadata.threshold
            )
            if not found.holds():
                raise UserError(f"{preset} differs from torch: {found}")
            runs["torch", preset] = lambda network=network, images=images: run(network, images)
            runs["onnx", preset] = lambda exported=exported, images=images: exported(images.numpy())
        with console.status("measuring"):
            samples = time_in_turns(list(runs.values()), args.rounds, torch.device("cpu"), 0.0)
        print(report(dict(zip(runs, map(summarise, samples), strict=True)), args))


def build(cfg: Config, preset: str, size: tuple[int, int]) -> tuple[Network, Metadata]:
    """A config's network with random weights under a preset, and what its file says of it."""
    cfg = Config(cfg.to_dict())
    cfg.model.backbone.update(tome_cfg=None if preset == NONE else preset, init_cfg=None)
    init_default_scope(cfg.get("default_scope", "mmseg"))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.backbone.init_weights()
    network = Network(model)
    task = "pose" if is_pose(cfg) else "segmentation"
    means, deviations = ([value] * network.channels for value in (0.0, 1.0))
    known = dict(channels=network.channels, threshold=threshold_of(model))
    of_input = (list(size), means, deviations, "RGB")
    return network, Metadata(task, *of_input, OUTPUT[task], [], preset, **known)


@torch.no_grad()
def run(network: Network, images: torch.Tensor):
    """The network's output as an array."""
    return network(images).numpy()


def report(times: dict[tuple[str, str], dict[str, float]], args: argparse.Namespace) -> str:
    """A table of medians, a row a runtime, and what was measured with."""
    import onnxruntime

    width = 26
    lines = [" " * 14 + "".join(f"{preset:>{width}}" for preset in args.presets)]
    for runtime, title in (("torch", "torch"), ("onnx", "ONNX Runtime")):
        base = times[runtime, args.presets[0]]["median"]
        cells = [_cell(times[runtime, preset], base) for preset in args.presets]
        lines.append(f"{title:14}" + "".join(f"{cell:>{width}}" for cell in cells))
    lines.append(
        f"ms an image of {args.size}, median [quartiles] of {args.rounds} interleaved rounds, "
        f"ratio to {args.presets[0]}; {args.config}"
    )
    lines.append(
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, opset {args.opset}, "
        f"{args.threads} threads, {platform.machine()}, Python {platform.python_version()}"
    )
    return "\n".join(lines)


def _cell(ms: dict[str, float], base: float) -> str:
    return f"{ms['median']:.1f} [{ms['q1']:.0f}-{ms['q3']:.0f}] {base / ms['median']:.2f}x"
