"""What `mmseg-tome benchmark-export` does once its command line is read."""

import argparse
import tempfile
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from mmseg_tome.config import is_pose, read_config, read_size
from mmseg_tome.errors import UserError
from mmseg_tome.export import onnx_file, program
from mmseg_tome.export.metadata import OUTPUT, Metadata, normalisation
from mmseg_tome.lab.bench import networks
from mmseg_tome.lab.bench.measure import summarise, time_in_turns
from mmseg_tome.lab.bench.results import environment
from mmseg_tome.lab.demo.scene import render_scene
from mmseg_tome.lab.exported.runtimes import RUNTIMES, Runtime, Task
from mmseg_tome.lab.output import markdown_table

NONE, STOCK = "none", "stock"
PAUSE_S = 0.05
"""Before each pass: the threads of the runtime before wait for more work for a while."""

Key = tuple[str, str]
"""Title of a runtime, and name of a network."""


class Network(nn.Module):
    """A pipeline as exporting takes it.

    Attributes:
        channels: Of an image.
    """

    def __init__(self, pipeline: networks.Pipeline, channels: int):
        super().__init__()
        self.pipeline = pipeline.requires_grad_(False)
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `[B, C, H, W]` -> logits or heatmaps, `[B, K, h, w]`."""
        return self.pipeline(images)


def time_exported(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mm(seg|pose|engine)\.")
    size = read_size(args.size)
    if min(args.rounds, args.threads) < 1:
        raise UserError("--rounds and --threads must be at least 1")
    onnx_file.check(args.opset)
    networks.check_names("runtime", args.runtimes, RUNTIMES, "--runtimes: ")
    versions = {RUNTIMES[name].title: RUNTIMES[name].check() for name in args.runtimes}
    torch.set_num_threads(args.threads)
    cfg = read_config(args)
    built = build(cfg, args)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        task = describe(cfg, built, size, Path(folder), args)
        runtimes = [RUNTIMES[name](task) for name in args.runtimes]
        with torch.no_grad():
            images = torch.from_numpy(task.images)
            expected = {name: network(images).numpy() for name, network in built.items()}
        agreement: dict[Key, float] = {}
        for runtime in runtimes:
            stack.enter_context(runtime.stack)
            label = f"preparing for {runtime.title}"
            for name, network in track(built.items(), label, console=console):
                runtime.add(name, network)
            for name, output in expected.items():
                agreement[runtime.title, name] = runtime.agreement(name, output)
        with console.status("measuring"):
            times = measure(runtimes, list(built), args.rounds)
    print(report(times, agreement, versions, args))


def build(cfg: Config, args: argparse.Namespace) -> dict[str, Network]:
    """The stock network, if there is one, and that of every preset, with the same weights."""
    model = networks.model_of(Path(args.config).stem, cfg, {})
    stock = [STOCK] if model.is_segformer and not args.no_stock else []
    torch.manual_seed(0)
    pipelines = {
        name: networks.build(
            model, {} if name in (NONE, STOCK) else {"tome_cfg": name}, of_peer=name == STOCK
        )
        for name in (*stock, *args.presets)
    }
    first = next(iter(pipelines.values()))
    if args.checkpoint:
        networks.load_checkpoint(first, args.checkpoint)
    state = first.state_dict()
    for pipeline in pipelines.values():
        pipeline.load_state_dict(state)
    channels = model.backbone.get("in_channels", 3)
    return {name: Network(pipeline, channels) for name, pipeline in pipelines.items()}


def describe(
    cfg: Config,
    built: Mapping[str, Network],
    size: tuple[int, int],
    folder: Path,
    args: argparse.Namespace,
) -> Task:
    """What is run: a rendered street, where networks take colour images."""
    channels = next(iter(built.values())).channels
    task = "pose" if is_pose(cfg) else "segmentation"
    head = cfg.model.get("decode_head") or cfg.model.head
    metadata = Metadata(
        task,
        list(size),
        *normalisation(cfg, channels),
        "RGB",
        OUTPUT[task],
        names=[f"class {i}" for i in range(max(2, head.get("num_classes", 0)))],
        preset="",
        config=Path(args.config).name,
        channels=channels,
        threshold=head.get("threshold"),
        inference=dict(model=dict(decode_head=dict(align_corners=head.get("align_corners")))),
    )
    image = None
    if channels == 3:
        scene = render_scene(np.random.default_rng(3), max(64, size[0], -(-size[1] // 2))).image
        image = np.ascontiguousarray(scene[: size[0], : size[1], ::-1])
        images = metadata.prepare(image)[None]
    else:
        images = program.smooth_images(size, channels=channels).numpy()
    known = (args.threads, args.opset, args.scores_mib, args.ort_web)
    return Task(folder, metadata, image, images, *known)


def measure(runtimes: list[Runtime], names: list[str], rounds: int) -> dict[Key, dict[str, float]]:
    """Milliseconds of every network in every runtime, in turns."""

    def sample(runtime: Runtime, name: str) -> float:
        time.sleep(PAUSE_S)
        return runtime.time(name)

    each = {(runtime.title, name): (runtime, name) for runtime in runtimes for name in names}
    samples = time_in_turns(
        list(each.values()), rounds, torch.device("cpu"), sample=lambda pair, _: sample(*pair)
    )
    return dict(zip(each, map(summarise, samples), strict=True))


def report(
    times: Mapping[Key, dict[str, float]],
    agreement: Mapping[Key, float],
    versions: Mapping[str, str],
    args: argparse.Namespace,
) -> str:
    """Tables of medians and of agreement, a row a runtime, and what was measured with."""
    names = list(dict.fromkeys(name for _, name in times))
    base = NONE if NONE in names else names[0]

    def cells(title: str) -> list[str]:
        ms = {name: times[title, name]["median"] for name in names}
        return [
            f"{value:.1f}" if name == base else f"{value:.1f} ({ms[base] / value:.2f}x)"
            for name, value in ms.items()
        ]

    env = environment([])
    shown = ", ".join(f"{title} {version}" for title, version in versions.items())
    return "\n".join(
        [
            *markdown_table(["ms", *names], [[title, *cells(title)] for title in versions]),
            "",
            *markdown_table(
                ["agreement with torch, %", *names],
                [[t, *(f"{100 * agreement[t, name]:.2f}" for name in names)] for t in versions],
            ),
            "",
            f"ms an image of {args.size}, float32: median of {args.rounds} rounds in turns (ratio: "
            f"{base} over this); {args.config}",
            f"{shown}; {args.threads} threads, {env['cpu']}, load average "
            f"{env['load_average']:.1f}, Python {env['python']}",
        ]
    )
