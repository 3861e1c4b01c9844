"""Export a trained segmentation or pose model to a file that runs without this package.

--format onnx (the default) writes ONNX of standard operators, for ONNX Runtime, OpenVINO, TensorRT
and others; --format torch-export writes torch's own .pt2; --format executorch a .pte for phones and
boards, by XNNPACK; --format web a folder with an ONNX file of each of --presets and a page that
runs them in a browser. A file takes normalised images
`[B, C, H, W]` and gives logits or heatmaps at a quarter of that size; mean, std, order of channels,
names of classes or keypoints, preset and more are in its metadata. `mmseg-tome infer --model` runs
it. A file takes images of one size; with --dynamic-size of any from a smallest one on, which is
found.

Before the file is put in place, it is loaded again and compared with the model in torch, on noise
and on an image-like input. A file that exists is replaced only by one that passed.

Exit codes: 0; 2 if a mistake, which is named, or a difference kept the file from being written.

Examples:
  mmseg-tome export segformerpp_fast_cityscapes work.pth --size 1024x1024 --out model.onnx
  mmseg-tome export my_config.py my.pth --out model.onnx --dynamic-size --dtype float16
  mmseg-tome export my_config.py my.pth --out model.onnx --int8 --calibration photos/
  mmseg-tome export my_config.py my.pth --format web --size 512x512 --out page/
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import command, ignore_developer_warnings
from mmseg_tome.config import choose_checkpoint, is_pose, read_config, read_size
from mmseg_tome.errors import UserError
from mmseg_tome.files import only_one, replacing

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch.export import ExportedProgram

    from mmseg_tome.export.metadata import Metadata
    from mmseg_tome.export.network import Network
    from mmseg_tome.export.parity import Parity

ENDINGS = {"onnx": ".onnx", "torch-export": ".pt2", "executorch": ".pte"}
WEB = "web"
WEB_PRESETS = ("none", "hq", "fast", "n2d", "quality")
WEB_NAMES = ("none", *names.MERGING_PRESETS)
MAX_IMAGES = 64
"""Of a calibration folder: half of them calibrate, half of them tell what INT8 costs."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = options.Parser(__doc__, options.CONFIG, options.CHECKPOINT)
    add = parser.add_argument
    add("--out", required=True, type=Path, metavar="FILE",
        help="a name in .onnx, .pt2 or .pte; of --format web a folder")  # fmt: skip
    add("--format", choices=[*ENDINGS, WEB], default="onnx", help="what to write (default: onnx)")
    add("--size", metavar="HxW",
        help="height and width of the images, in pixels (default: of pose the codec's input size, "
        "of segmentation the training crop's)")  # fmt: skip
    add("--dynamic-size", action="store_true",
        help="segmentation: images of any height and width, read and tested as the config says; "
        "--size only says what is compared")  # fmt: skip
    add("--dynamic-batch", action="store_true", help="any number of images at once, not one")
    add("--dtype", choices=["float32", "float16"], default="float32",
        help="float16 is for GPUs: on a CPU ONNX Runtime is slower than with float32")  # fmt: skip
    add("--half", dest="dtype", action="store_const", const="float16", help=argparse.SUPPRESS)
    add("--int8", action="store_true", help="8-bit integers, by the runtime's quantiser")
    add("--calibration", type=Path, metavar="DIR",
        help="folder of images by which --int8 finds ranges; without it, of ONNX alone, only "
        "linear layers become integers, with ranges found while running")  # fmt: skip
    add("--opset", type=int, default=names.OPSET, help=f"of ONNX (default {names.OPSET})")
    add("--scores-mib", type=int, default=names.SCORES_MIB, metavar="N",
        help="ONNX: attention scores of an image that exist at a time, in MiB; 0: all, for "
        f"runtimes that fuse attention themselves (default {names.SCORES_MIB})")  # fmt: skip
    add("--presets", nargs="+", metavar="NAME",
        help=f"web: a file of each (default: {' '.join(WEB_PRESETS)})")  # fmt: skip
    add("--ort-web", type=Path, metavar="DIR/TGZ",
        help="web: the package onnxruntime-web, unpacked or not (default: npm's)")  # fmt: skip
    options.add_model(parser)
    options.add_verbosity(parser)
    args = parser.read(argv, "config", "checkpoint", required=["config"])
    args.half = args.dtype == "float16"
    return args


def export(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    if not args.verbose:
        ignore_developer_warnings()
    check_options(args)
    with only_one(args.out.parent, file=args.out.name):
        (write_web if args.format == WEB else write)(args)


def write(args: argparse.Namespace) -> None:
    """Write the file, once what it computes has been compared."""
    from rich.console import Console

    from mmseg_tome.checkpoints.model import load_model
    from mmseg_tome.config_datasets import with_one_test_dataset
    from mmseg_tome.export import executorch_file, onnx_file, torch_file
    from mmseg_tome.export.metadata import describe
    from mmseg_tome.export.network import Network

    pictures = find_images(args.calibration) if args.calibration else []
    cfg = with_one_test_dataset(read_config(args))
    if args.dynamic_size and is_pose(cfg):
        raise UserError("--dynamic-size is for segmentation: a pose codec has one size")
    size = choose_size(args.size, cfg)
    checkpoint = choose_checkpoint(args, cfg)

    status = Console(stderr=True, quiet=args.quiet).status
    with status("loading"):
        model = load_model(cfg, checkpoint)
        network = Network(model)
    program_of, least = None, 0
    if args.dynamic_size:
        with status("tracing"):
            program_of, least = trace(network, size, args)
    metadata = describe(
        cfg,
        model,
        size,
        config=Path(args.config).name,
        dynamic_batch=args.dynamic_batch,
        precision="float16" if args.half else "int8" if args.int8 else "float32",
        min_side=least,
    )
    with status("running in torch"):
        inputs = compared_inputs(network.channels, size, args.dynamic_batch, least)
        expected = run_in_torch(network, inputs)
    with replacing(args.out) as temporary:
        with status("tracing and writing"):
            if args.half or program_of is None:
                program_of, _ = trace(Network(model, half=args.half), size, args)
            if args.format == "onnx":
                onnx_file.write(program_of, temporary, metadata, args.opset)
            elif args.format == "executorch":
                executorch_file.write(program_of, temporary, metadata)
            else:
                torch_file.write(program_of, temporary, metadata)
        with status("comparing"):
            compare(temporary, inputs, expected, metadata, args)
        if args.int8:
            with status("quantising"):
                to_int8(temporary, metadata, pictures, program_of)
    pixels = f"any size from {least}x{least} pixels" if least else f"{size[0]}x{size[1]} pixels"
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, {pixels}")


def write_web(args: argparse.Namespace) -> None:
    """Write the folder, once what its files compute has been compared."""
    from rich.console import Console

    from mmseg_tome.checkpoints.model import load_model
    from mmseg_tome.config_datasets import with_one_test_dataset
    from mmseg_tome.export import onnx_file, web_page
    from mmseg_tome.export.metadata import describe
    from mmseg_tome.export.network import Network
    from mmseg_tome.export.ort_web import copy_ort_web
    from mmseg_tome.runtime.merging_switch import set_merging

    cfg = with_one_test_dataset(read_config(args))
    if is_pose(cfg):
        raise UserError("--format web is for segmentation: the page shows no keypoints")
    size = choose_size(args.size, cfg)
    checkpoint = choose_checkpoint(args, cfg)
    status = Console(stderr=True, quiet=args.quiet).status
    with replacing(args.out) as folder:
        with status("fetching ONNX Runtime Web"):
            copy_ort_web(folder / "ort", args.ort_web)
        with status("loading"):
            model = load_model(cfg, checkpoint)
        (folder / "models").mkdir()
        files = []
        for preset in args.presets or WEB_PRESETS:
            with status(f"{preset}: tracing, writing, comparing"):
                merging = None if preset == "none" else preset
                set_merging(model, merging)
                cfg.model.backbone.tome_cfg = merging
                network = Network(model)
                metadata = describe(cfg, model, size, config=Path(args.config).name)
                web_page.check_metadata(metadata)
                inputs = compared_inputs(network.channels, size, False, 0)
                expected = run_in_torch(network, inputs)
                path = folder / "models" / f"{preset}.onnx"
                onnx_file.write(trace(network, size, args)[0], path, metadata, args.opset)
                found = compare(path, inputs, expected, metadata, args, f"{preset}, ")
            files.append((preset, path, found["image-like"]))
        web_page.write_page(folder, metadata, files)
    total = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"{args.out}: {total / 2**20:.1f} MiB, {len(files)} presets, {size[0]}x{size[1]} pixels")
    print(f"python -m http.server --directory {args.out}  # shows it at http://localhost:8000")


def run_in_torch(network: Network, inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """What a network gives for each input, by its name."""
    import torch

    with torch.no_grad():
        return {name: network(images).numpy() for name, images in inputs.items()}


def compare(
    path: Path,
    inputs: Mapping[str, torch.Tensor],
    expected: Mapping[str, np.ndarray],
    metadata: Metadata,
    args: argparse.Namespace,
    prefix: str = "",
) -> dict[str, Parity]:
    """Compare what a file gives with what torch gave, by name of the input, and print it.

    Raises:
        UserError: It is another function.
    """
    from mmseg_tome.export import parity
    from mmseg_tome.export.runtime import open_exported

    exported, results = open_exported(path), {}
    for name, images in inputs.items():
        found = results[name] = parity.compare(
            exported(images.numpy()), expected[name], metadata.task, metadata.threshold
        )
        print(f"{prefix}{name}: {found}")
        if not (found.finite if args.half else found.holds()):
            raise UserError(f"{args.out} was not written: on {prefix}{name} it differs, {found}")
    return results


def trace(
    network: Network, size: tuple[int, int], args: argparse.Namespace
) -> tuple[ExportedProgram, int]:
    """The network's graph, and the smallest side of any size that it takes, or 0 for `size` alone.

    Raises:
        UserError: There is none for any size, or `size` is below the smallest.
    """
    from mmseg_tome.export import executorch_file, program

    for_onnx = args.format != "torch-export"
    if args.format == "executorch":
        return executorch_file.trace(network, size, args.scores_mib), 0
    if not args.dynamic_size:
        return program.trace(network, size, args.dynamic_batch, for_onnx, args.scores_mib), 0
    traced, least = program.trace_any_size(network, args.dynamic_batch, for_onnx)
    if min(size) < least:
        raise UserError(
            f"of this network --dynamic-size takes images from {least}x{least} pixels on, and "
            f"{size[0]}x{size[1]} is to be compared: give another --size"
        )
    return traced, least


def compared_inputs(
    channels: int, size: tuple[int, int], dynamic_batch: bool, least: int
) -> dict[str, torch.Tensor]:
    """Images that the file is compared on, by name."""
    from mmseg_tome.export import program

    inputs = {
        "noise": program.random_images(size, channels=channels),
        "image-like": program.smooth_images(size, channels=channels),
    }
    if dynamic_batch:
        inputs["noise, batch of 3"] = program.random_images(size, 3, channels)
    if least:
        for other in ((least, least), (size[0] + 61, size[1] + 35)):
            name = f"image-like, {other[0]}x{other[1]}"
            inputs[name] = program.smooth_images(other, channels=channels)
    return inputs


def check_options(args: argparse.Namespace) -> None:
    """Raise UserError for options that do not go together, or packages that are not there."""
    if args.format == WEB:
        check_web_options(args)
    elif args.presets or args.ort_web:
        raise UserError("--presets and --ort-web are for --format web")
    else:
        ending = ENDINGS[args.format]
        if args.out.suffix != ending:
            raise UserError(
                f"--out {args.out}: the name of a file of this --format ends in {ending}"
            )
        if args.out.is_dir():
            raise UserError(f"--out {args.out} is a folder")
    if args.int8 and (args.half or args.format not in ("onnx", "executorch")):
        raise UserError(
            "--int8 is for --format onnx without --half, which is --dtype float16, and executorch"
        )
    if args.format == "executorch":
        check_executorch_options(args)
    if args.calibration and not args.int8:
        raise UserError("--calibration is for --int8")
    if args.int8 and args.dynamic_size:
        raise UserError("--int8 is for images of one size, without --dynamic-size")
    if args.scores_mib < 0:
        raise UserError("--scores-mib must not be negative")
    if args.format in ("onnx", WEB):
        from mmseg_tome.export import onnx_file

        onnx_file.check(args.opset)


def check_executorch_options(args: argparse.Namespace) -> None:
    """Raise UserError for what a .pte is not made of."""
    if args.dynamic_size or args.dynamic_batch or args.half:
        raise UserError(
            "--format executorch takes float32 or --int8, one image of one size: no "
            "--dynamic-size, --dynamic-batch or --dtype float16"
        )
    if args.int8 and not args.calibration:
        raise UserError("--int8 of --format executorch needs --calibration DIR, to find ranges")
    from mmseg_tome.export import executorch_file

    executorch_file.check()


def check_web_options(args: argparse.Namespace) -> None:
    """Raise UserError for what a page is not made of."""
    if args.dynamic_size or args.dynamic_batch or args.half or args.int8:
        raise UserError(
            "--format web takes float32 and one size: no --dynamic-size, --dynamic-batch, "
            "--dtype float16 or --int8"
        )
    if args.preset:
        raise UserError("--format web takes --presets, one or several, instead of --preset")
    for preset in args.presets or ():
        if preset not in WEB_NAMES:
            raise UserError(f"--presets {preset} is unknown: {', '.join(WEB_NAMES)} are known")
    from mmseg_tome.export.web_page import check_folder

    check_folder(args.out)


def choose_size(text: str | None, cfg) -> tuple[int, int]:
    """The (H, W) of the images.

    Raises:
        UserError: None is known, `text` is not HxW, or a pose codec has another one.
    """
    if is_pose(cfg):
        width, height = cfg.model.head.decoder.input_size
        known = (height, width)
    else:
        known = (cfg.model.get("data_preprocessor") or {}).get("size")
    if text is None:
        if known is None:
            raise UserError("the config names no size: give it with --size HxW")
        return tuple(known)
    size = read_size(text)
    if is_pose(cfg) and size != known:
        raise UserError(f"--size {text}: the config's codec is for {known[0]}x{known[1]}")
    return size


def find_images(folder: Path) -> list[Path]:
    """Up to `MAX_IMAGES` images of a folder and its subfolders, evenly from the sorted list.

    Raises:
        UserError: There is no such folder, or no image in it.
    """
    from mmseg_tome.predict.inputs import IMAGES

    if not folder.is_dir():
        raise UserError(f"--calibration {folder} is no folder")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGES)
    if not files:
        raise UserError(f"--calibration {folder} holds no image")
    return files[:: -(-len(files) // MAX_IMAGES)]


def to_int8(
    path: Path, metadata: Metadata, pictures: Sequence[Path], program_of: ExportedProgram
) -> None:
    """Replace a float32 file by its INT8 form and say how far both agree.

    Every second picture calibrates; agreement is measured on the others.

    Raises:
        UserError: A picture cannot be read, or is not what the config reads.
    """
    import numpy as np

    from mmseg_tome.export import executorch_file, parity, program
    from mmseg_tome.export.calibration import network_inputs
    from mmseg_tome.export.quantise import quantise
    from mmseg_tome.export.runtime import open_exported

    images = network_inputs(path, pictures)
    size = tuple(metadata.input_size)
    others = images[1::2] or images
    others = others or list(program.smooth_images(size, 4, metadata.channels).numpy())
    before = open_exported(path)
    smaller = path.with_name(f".int8{path.name}")
    try:
        if path.suffix == ENDINGS["executorch"]:
            smaller_program = executorch_file.quantise(program_of, images[::2])
            executorch_file.write(smaller_program, smaller, metadata)
        else:
            quantise(path, smaller, images[::2] or None, metadata)
        after = open_exported(smaller)
        pairs = [(after(image[None]), before(image[None])) for image in others]
        os.replace(smaller, path)
    finally:
        smaller.unlink(missing_ok=True)
    got, expected = (np.concatenate(outputs) for outputs in zip(*pairs, strict=True))
    kind = f"calibrated on {len(images[::2])} images" if images else "dynamic"
    found = parity.compare(got, expected, metadata.task, metadata.threshold)
    print(f"int8, {kind}, against float32 on {len(others)} images: {found}")


main = command(parse_args, export)
