"""Run a segmentation or pose model on images, videos, cameras and streams.

An INPUT is an image, a video, a folder, a quoted pattern ('photos/*.jpg', '**' for subfolders too),
an http address of an image, video or MJPEG stream, an rtsp address, a camera's number (0), a .txt
or .streams file with an input a line, or - for an image or such a list on stdin. Of animated GIFs
and WebPs and of TIFFs all images are run. Streams and cameras are run until Ctrl-C, which keeps
what is done and completes the video, until --frames, or until they end, one after the other, on the
newest frame each time.

Without a checkpoint, the config's `load_from` is run; whether it segments or finds keypoints is the
config's matter, too. `--model FILE` takes what `mmseg-tome export` wrote, .onnx, .pt2 or .pte, in
place of both. Folders are searched with all their subfolders. The folder of --out gets

    overlays/    each image with its prediction painted over it, a PNG if it is too wide for a
                 JPEG; of a video, stream or animation, a video; of pages, a folder
    labels/      segmentation: class index of each pixel, a grey PNG an image or frame
    merging/     with --show-merging: of each image the figure of `mmseg-tome visualize`
    results.json for each image or frame its path, size, milliseconds (without reading, painting
                 and saving) and files; for segmentation the share of each class; for pose boxes
                 [x, y, w, h], keypoints [x, y] in pixels of the image, and scores

Names keep the path from a given folder's own name on. results.json is written last, in one piece;
then what an earlier run into the folder left is removed.

Exit codes: 0; 1 if inputs could not be read or run, each of which is named, while the others were;
2 if a mistake, which is named, kept the command from running or from saving.

Examples:
  mmseg-tome infer segformerpp_fast_cityscapes work.pth street.jpg --out results
  mmseg-tome infer my_config.py my.pth photos/ clip.mp4 --out results --dtype bfloat16
  mmseg-tome infer photos/ --model model.onnx --out results
  mmseg-tome infer segformerpp_fast_cityscapes work.pth 0 --show
  mmseg-tome infer my_config.py my.pth rtsp://camera/live --frames 500 --out results
  find . -name '*.png' | mmseg-tome infer my_config.py my.pth - --out results
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import command, ignore_developer_warnings
from mmseg_tome.cli.progress import progress_bar
from mmseg_tome.config import (
    NO_GPU,
    choose_checkpoint,
    choose_device,
    is_pose,
    no_effect,
    read_config,
    say,
)
from mmseg_tome.errors import UserError, first_line

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmseg_tome.predict.boxes import Boxes
    from mmseg_tome.predict.inputs import Item, Reader, Source
    from mmseg_tome.predict.results import Prediction, ResultsWriter
    from mmseg_tome.predict.window import Window

EXIT_SOME_FAILED = 1
INPUTS = ("INPUT ...", "image, folder, video, pattern, address, camera or -; any number, mixed")
LOOK = 300
"""Milliseconds that --show leaves an image, which frames do not need."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = options.Parser(__doc__, options.CONFIG, options.CHECKPOINT, INPUTS)
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="folder of the results; needed without --show")
    add("--show", action="store_true", help="show overlays in a window, which q closes")
    add("--frames", type=options.at_least_1, metavar="N",
        help="run the first N frames of each video or stream")  # fmt: skip
    add("--opacity", type=options.fraction, metavar="X",
        help="of what is painted, 0 to 1 (default: segmentation 0.5, pose 1)")  # fmt: skip
    add("--with-labels", action="store_true",
        help="segmentation: write class names into the overlays (seconds for a large image)",
        )  # fmt: skip
    options.add_show_merging(parser)
    add_pose(parser)
    group = options.add_model(parser)
    group.add_argument("--model", metavar="FILE",
        help="exported model, .onnx, .pt2 or .pte, in place of config and checkpoint")  # fmt: skip
    group = parser.add_argument_group("how it runs")
    add = group.add_argument
    add("--batch-size", type=options.at_least_1, metavar="N",
        help="images of one size, or boxes of one image, that run together (default: as the "
        "config tests)")  # fmt: skip
    add("--reuse-frames", type=options.at_least_1, default=1, metavar="K",
        help="match tokens on every K-th frame of a video or stream, and keep the groups for the "
        "frames between (default: 1)")  # fmt: skip
    options.add_device(group)
    options.add_dtype(group)
    options.add_launch(group)
    options.add_verbosity(parser)
    args = parser.read(argv, "config", "checkpoint", required=["config", "inputs"], rest="inputs")
    if args.config and args.model:
        parser.error("argument --model: not allowed with argument --config")
    if not args.out and (args.show_merging or not args.show):
        parser.error("the following arguments are required: --out")
    return args


def add_pose(parser: argparse.ArgumentParser) -> None:
    """Options of pose alone."""
    add = parser.add_argument_group("pose").add_argument
    add("--boxes", metavar="FILE",
        help="JSON with the boxes [x, y, w, h] of the persons in the images, as COCO's detections, "
        '[{"file_name" or "image_id", "bbox", "score"}], or annotations, {"images", "annotations"}'
        "; without it, each image is taken for the box of one person")  # fmt: skip
    add("--box-threshold", type=options.fraction, default=0.3, metavar="X",
        help="leave out boxes with a lower score (default 0.3)")  # fmt: skip
    add("--keypoint-threshold", type=options.fraction, default=0.3, metavar="X",
        help="do not draw keypoints with a lower score (default 0.3)")  # fmt: skip


def infer(args: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    if not args.verbose:
        ignore_developer_warnings()
        silence_opencv()
    from mmseg_tome.cli import additions
    from mmseg_tome.config_datasets import with_one_test_dataset
    from mmseg_tome.predict import inputs
    from mmseg_tome.predict.results import LABELS, MERGING, OVERLAYS, ResultsWriter

    if args.out and args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file, not a folder")
    check_reuse(args)
    window = open_window() if args.show else None
    results = [args.out / name for name in (OVERLAYS, LABELS, MERGING)] if args.out else []
    sources = inputs.find_sources(args.inputs, results)
    cfg, checkpoint = read_model(args)
    cfg = with_one_test_dataset(cfg)
    device = choose_device(args.device)
    gpu = device != "cpu"
    if gpu and additions.has_our_backbone(cfg):
        additions.use_our_model(cfg)
    boxes = read_boxes(args, cfg, sources)
    reader = inputs.Reader(cfg)
    predictor = build_predictor(args, cfg, checkpoint, device, boxes)
    speed_up(args, cfg, predictor, gpu)
    reuse_frames(args, predictor)
    illustrator = build_illustrator(args, cfg, checkpoint, predictor)
    if illustrator and any(source.is_video or source.images > 1 for source in sources):
        say("warning: --show-merging draws images, not the frames of videos")
    origin = dict(config=args.config, checkpoint=checkpoint)
    header = dict(
        task=predictor.task,
        **(dict(model=args.model) if args.model else origin),
        device=device,
        **predictor.meta,
    )
    with ResultsWriter(args.out) if args.out else nullcontext() as writer:
        failed = predict_all(args, sources, reader, predictor, writer, illustrator, window)
        if writer and writer.entries:
            path = writer.write(header, failed)
            print(f"{len(writer.entries)} images done, {len(failed)} inputs failed: {path}")
    return EXIT_SOME_FAILED if failed else 0


def silence_opencv() -> None:
    """Keep from stderr what it and FFmpeg say of streams that break off, which we say ourselves."""
    for name, level in {"OPENCV_LOG_LEVEL": "ERROR", "OPENCV_FFMPEG_LOGLEVEL": "-8"}.items():
        os.environ.setdefault(name, level)  # read when OpenCV is imported


def read_model(args: argparse.Namespace) -> tuple[Config, str]:
    """The config to run, and the address of its weights.

    Raises:
        UserError: One of the files is missing or cannot be read, or options do not go together.
    """
    if args.model:
        from mmseg_tome.export.reader import read_exported

        given = dict(checkpoint=args.checkpoint, preset=args.preset, cfg_options=args.cfg_options)
        extra = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
        if extra:
            raise UserError(f"{extra[0]} goes with --config: a --model is complete")
        if args.device not in (None, "cpu"):
            raise UserError(f"--device {args.device}: a --model runs on the CPU here")
        args.device = "cpu"
        return read_exported(args.model)
    cfg = read_config(args)
    return cfg, choose_checkpoint(args, cfg)


def read_boxes(args: argparse.Namespace, cfg: Config, sources: list[Source]) -> Boxes | None:
    """The boxes of --boxes, if any.

    Raises:
        UserError: They cannot be used with this config, or fit none of the images.
    """
    if args.boxes is None:
        return None
    if not is_pose(cfg):
        raise UserError("--boxes is for pose, the config is one of segmentation")
    videos = [source.path for source in sources if source.is_video or source.images > 1]
    if videos:
        raise UserError(f"--boxes is for images: run {videos[0]} without it")
    from mmseg_tome.predict.boxes import Boxes

    boxes = Boxes(args.boxes, args.box_threshold)
    if all(boxes.of(source.path) is None for source in sources):
        raise UserError(f"--boxes {args.boxes} lists none of the images, such as {sources[0].path}")
    return boxes


def build_predictor(args, cfg: Config, checkpoint: str, device: str, boxes: Boxes | None):
    """The predictor of the config's task."""
    from mmseg_tome.predict import predictor_of

    options = dict(batch_size=args.batch_size)
    if args.opacity is not None:
        options.update(opacity=args.opacity)
    if is_pose(cfg):
        options.update(boxes=boxes, threshold=args.keypoint_threshold)
    else:
        options.update(with_labels=args.with_labels)
    return predictor_of(cfg)(cfg, checkpoint, device, **options)


def speed_up(args: argparse.Namespace, cfg: Config, predictor, gpu: bool) -> None:
    """Let the predictor's network run as --launch and --dtype say, or as the config's tests."""
    if args.model:
        given = dict(launch=args.launch, dtype=args.dtype, show_merging=args.show_merging)
        for name in (name for name, value in given.items() if value):
            switch = f"--{name.replace('_', '-')}"
            say(no_effect(switch, "a --model is complete, and runs on the CPU"))
        return
    if args.launch == "graphs" and not gpu:
        say(no_effect("--launch graphs", NO_GPU))
    from mmseg_tome.cli import additions, switches
    from mmseg_tome.runtime.acceleration import accelerate

    configured = additions.find_hook(cfg, "fast_inference") or {}
    options = {key: getattr(args, key) or configured.get(key) for key in ("launch", "dtype")}
    options = {key: value for key, value in options.items() if value}
    if gpu or switches.half(options.get("dtype")):
        say(accelerate(predictor.model, **options).summary)


def check_reuse(args: argparse.Namespace) -> None:
    """Let frames run one by one if they share slot maps.

    Raises:
        UserError: --reuse-frames does not go with another option.
    """
    if args.reuse_frames > 1:
        if args.model:
            raise UserError("--reuse-frames goes with --config: a --model is complete")
        if (args.batch_size or 1) > 1:
            raise UserError("--reuse-frames runs frames one by one: leave out --batch-size")
        args.batch_size = 1


def reuse_frames(args: argparse.Namespace, predictor) -> None:
    """Let a predictor match on every K-th frame, as --reuse-frames says.

    Raises:
        NothingMergesError: The model merges nothing.
    """
    if args.reuse_frames == 1:
        return
    from mmseg_tome.runtime.frame_reuse import FrameReuse

    reuse, predict = FrameReuse(predictor.model, args.reuse_frames), predictor.predict
    if not reuse.saves:
        say("--reuse-frames saves nothing: this tome_cfg merges fixed windows, without matching")

    def predict_next(items: Sequence[Item]) -> list[Prediction]:
        (item,) = items
        reuse.before_frame(None if item.frame is None or item.source.is_paged else item.source)
        return predict(items)

    predictor.predict = predict_next


def build_illustrator(args: argparse.Namespace, cfg: Config, checkpoint: str, predictor):
    """What draws the figures of --show-merging, if they are wanted and there is something to draw.

    Raises:
        UserError: The model merges nothing at all.
    """
    if not args.show_merging or args.model:
        return None
    from mmseg_tome.cli import switches
    from mmseg_tome.visualization.illustrator import MergingIllustrator
    from mmseg_tome.visualization.stage_maps import Selection

    if reason := switches.merges_nothing(cfg):
        say(no_effect("--show-merging", reason))
        return None
    note = f"{Path(args.config).name}, {Path(checkpoint).name}"
    alone = predictor.one_box_at_a_time() if predictor.task == "pose" else predictor
    return MergingIllustrator(alone, cfg, note, Selection())


def draw_merging(illustrator, item: Item, writer: ResultsWriter) -> str | None:
    """Draw what merges in an image; the figure's path in the folder, None if there is none.

    Raises:
        NothingToDrawError: Nothing merges in this image, or nobody is in it.
    """
    if illustrator is None or item.frame is not None:
        return None
    from mmseg_tome.predict.results import MERGING

    path = f"{MERGING}/{item.source.name}.png"
    writer.note(path)
    illustrator.draw(item, writer.folder / path)
    return path


def open_window() -> Window:
    """The window of --show.

    Raises:
        UserError: It cannot be opened.
    """
    from mmseg_tome.predict.window import Window

    return Window()


@contextmanager
def ended_by_signals(sources: list[Source]) -> Iterator[threading.Event]:
    """What Ctrl-C or SIGTERM sets, the first time, where there are streams; no exception then."""
    stopped, earlier = threading.Event(), {}

    def stop(number: int, frame) -> None:
        stopped.set()
        signal.signal(number, earlier[number])  # a second time as ever

    if any(source.is_live for source in sources):
        earlier |= {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in earlier:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def total_of(sources: list[Source], frames: int | None) -> int | None:
    """Number of images to run; None if streams may go on for ever."""
    from mmseg_tome.predict.inputs import count

    counts = [count(source) for source in sources]
    if frames:
        counts = [min(number or frames, frames) for number in counts]
    return None if None in counts else sum(counts)


def predict_all(
    args: argparse.Namespace,
    sources: list[Source],
    reader: Reader,
    predictor,
    writer: ResultsWriter | None,
    illustrator=None,
    window: Window | None = None,
) -> dict[Path | str, str]:
    """Predict, save and show everything; returns what failed, why by path."""
    import cv2

    from mmseg_tome.nets.errors import ModelInputError
    from mmseg_tome.predict.inputs import UnreadableError, batches
    from mmseg_tome.predict.results import UnwritableError
    from mmseg_tome.visualization.illustrator import NothingToDrawError

    failed: dict[Path | str, str] = {}
    total = total_of(sources, args.frames)
    with (
        progress_bar(args, predictor.task, total, "FPS") as (advance, tell),
        ended_by_signals(sources) as stopped,
        closing(window) if window else nullcontext(),
    ):

        def fail(path: Path | str, reason: str) -> None:
            if path not in failed:  # frames of a video fail alike
                failed[path] = reason
                tell(f"error: {path}: {reason}")

        def read() -> Iterator[Item]:
            for source in sources:

                def warn(line: str, path=source.path) -> None:
                    tell(f"warning: {path}: {line}")

                try:
                    for item in islice(reader.read(source, warn, stopped), args.frames):
                        if stopped.is_set():
                            return
                        yield item
                except UnreadableError as error:
                    fail(source.path, str(error))
                    advance(1)

        def save(item: Item, prediction) -> None:
            merging = None
            try:
                merging = draw_merging(illustrator, item, writer)
            except NothingToDrawError as error:
                tell(f"warning: {item.source.path}: no figure of merging: {error}")
            try:
                writer.add(item, prediction, merging)
            except UnwritableError as error:
                fail(item.source.path, str(error))

        for batch in batches(read(), predictor.batch_size):
            try:
                predictions = predictor.predict(batch)
            except (ModelInputError, cv2.error) as error:  # OpenCV's where a side shrinks to 0
                for item in batch:
                    fail(item.source.path, first_line(error))
            else:
                for item, prediction in zip(batch, predictions, strict=True):
                    if writer:
                        save(item, prediction)
                    pause = LOOK if item.frame is None else 1
                    if window and not window.show(prediction.overlay, pause):
                        stopped.set()
            advance(len(batch))
    return failed


main = command(parse_args, infer)
