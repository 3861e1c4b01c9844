"""Convert the public CamVid release to the layout that `mmseg_tome.CamVidDataset` reads.

RELEASE holds the unpacked `701_StillsRaw_full/*.png` and `LabeledApproved_full/*_L.png` of
http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/, and perhaps `label_colors.txt`. OUT
gets `images/{train,val,test}` and `labels/{train,val,test}`: the images as they are, the labels as
grey PNGs of the 11 SegNet classes, 255 = void. It appears only when all has been converted.

Examples:
  mmseg-tome convert-camvid downloads/camvid data/camvid
  mmseg-tome convert-camvid downloads/camvid data/camvid --force --unknown-as-void
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import command
from mmseg_tome.cli.progress import progress_bar
from mmseg_tome.errors import DataError

IMAGE_DIR, LABEL_DIR, COLOUR_FILE = "701_StillsRaw_full", "LabeledApproved_full", "label_colors.txt"
VOID, UNKNOWN = 255, 254
SPLIT_SIZES = {"train": 367, "val": 101, "test": 233}

# Badrinarayanan et al., SegNet (2017): which of the 32 classes make up each of the 11; the order is
# that of `CamVidDataset.METAINFO["classes"]`.
GROUPS = {
    "Sky": ("Sky",),
    "Building": ("Archway", "Bridge", "Building", "Tunnel", "Wall"),
    "Pole": ("Column_Pole", "TrafficCone"),
    "Road": ("LaneMkgsDriv", "LaneMkgsNonDriv", "Road"),
    "Pavement": ("ParkingBlock", "RoadShoulder", "Sidewalk"),
    "Tree": ("Tree", "VegetationMisc"),
    "SignSymbol": ("Misc_Text", "SignSymbol", "TrafficLight"),
    "Fence": ("Fence",),
    "Car": ("Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus"),
    "Pedestrian": ("Animal", "CartLuggagePram", "Child", "Pedestrian"),
    "Bicyclist": ("Bicyclist", "MotorcycleScooter"),
}
CLASS_OF = {name: i for i, names in enumerate(GROUPS.values()) for name in names} | {"Void": VOID}

# The release's `label_colors.txt`: red, green, blue.
COLOURS = {
    "Animal": (64, 128, 64),
    "Archway": (192, 0, 128),
    "Bicyclist": (0, 128, 192),
    "Bridge": (0, 128, 64),
    "Building": (128, 0, 0),
    "Car": (64, 0, 128),
    "CartLuggagePram": (64, 0, 192),
    "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128),
    "Fence": (64, 64, 128),
    "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64),
    "Misc_Text": (128, 128, 64),
    "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64),
    "ParkingBlock": (64, 192, 128),
    "Pedestrian": (64, 64, 0),
    "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192),
    "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128),
    "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192),
    "TrafficCone": (0, 0, 64),
    "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128),
    "Tree": (128, 128, 0),
    "Truck_Bus": (192, 128, 192),
    "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0),
    "Wall": (64, 192, 0),
}


def split_of(name: str) -> str:
    """Split of a frame, from its name (`0016E5_07959`): SegNet's 367 / 101 / 233.

    Test is the dusk drive's second half and all of Seq05VD, val the part of 0016E5 labelled at
    15 Hz, train the rest.

    Raises:
        DataError: Not the name of a CamVid frame.
    """
    match = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", name)
    if not match:
        raise DataError(f"not the name of a CamVid frame: {name}")
    sequence, frame = match[1], int(match[2])
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame > 8520):
        return "test"
    if sequence == "0016E5" and 7959 <= frame <= 8159:
        return "val"
    return "train"


def read_colours(path: Path) -> dict[str, tuple[int, ...]]:
    """Read `label_colors.txt`: lines of red, green, blue and a class's name."""
    colours = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(\S+)\s*", line)
        rgb = tuple(int(value) for value in match.groups()[:3]) if match else ()
        if not match or max(rgb) > 255:
            raise DataError(f"{path}, line {number}: expected `R G B Name`, got {line!r}")
        if match[4] not in CLASS_OF:
            raise DataError(f"{path}, line {number}: unknown class {match[4]}")
        colours[match[4]] = rgb
    return colours


def class_table(colours: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Class index of each 24-bit colour, uint8 `[2**24]`; `UNKNOWN` for all but the given ones."""
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    for name, (red, green, blue) in colours.items():
        table[red << 16 | green << 8 | blue] = CLASS_OF[name]
    return table


def open_rgb(path: Path) -> Image.Image:
    try:
        return Image.open(path).convert("RGB")
    except OSError as error:  # also PIL's UnidentifiedImageError
        raise DataError(f"{path}: cannot be read as an image: {error}") from error


def convert_label(path: Path, table: np.ndarray, unknown_as_void: bool = False) -> np.ndarray:
    """Read a colour-coded label as class indices, uint8 `[H, W]`.

    Raises:
        DataError: A colour that stands for no class, unless `unknown_as_void`.
    """
    rgb = np.asarray(open_rgb(path)).astype(np.uint32)  # [H, W, 3]
    code = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    label = table[code]
    unknown = label == UNKNOWN
    if unknown.any():
        if not unknown_as_void:
            y, x = np.argwhere(unknown)[0]
            colour = tuple(int(value) for value in rgb[y, x])
            raise DataError(
                f"{path}: colour {colour} at x={x}, y={y} is none of CamVid's 32 classes "
                f"({unknown.sum()} such pixels; --unknown-as-void makes them void)"
            )
        label[unknown] = VOID
    return label


def find_pairs(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Pair each `name.png` with its `name_L.png`, sorted by name.

    Raises:
        DataError: A folder is missing or empty, or a file has no counterpart.
    """
    for folder, pattern in ((images, "*.png"), (labels, "*_L.png")):
        if not folder.is_dir():
            raise DataError(f"folder not found: {folder}")
        if not any(folder.glob(pattern)):
            raise DataError(f"no {pattern} in {folder}")
    image_of = {path.stem: path for path in images.glob("*.png")}
    label_of = {path.stem.removesuffix("_L"): path for path in labels.glob("*_L.png")}
    for here, there, where in ((image_of, label_of, labels), (label_of, image_of, images)):
        if missing := sorted(here.keys() - there.keys()):
            raise DataError(
                f"{len(missing)} of {len(here)} frames are missing in {where}, first {missing[0]}"
            )
    return [(image_of[name], label_of[name]) for name in sorted(image_of)]


def convert(
    pairs: list[tuple[Path, Path]], table: np.ndarray, out: Path, unknown_as_void: bool = False
) -> Iterator[str]:
    """Write the pairs below `out`, which exists; yields the split of each frame done."""

    def one(pair: tuple[Path, Path]) -> str:
        image, label = pair
        split = split_of(image.stem)
        classes = convert_label(label, table, unknown_as_void)
        with Image.open(image) as opened:
            size = opened.size
        if size != classes.shape[::-1]:
            raise DataError(f"{image} is {size}, its label {classes.shape[::-1]} (w, h)")
        shutil.copyfile(image, out / "images" / split / image.name)
        Image.fromarray(classes).save(out / "labels" / split / image.name)
        return split

    for kind in ("images", "labels"):
        for split in SPLIT_SIZES:
            (out / kind / split).mkdir(parents=True)
    # Threads suffice: PNG coding releases the GIL.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield from pool.map(one, pairs)
        finally:
            pool.shutdown(cancel_futures=True)


def check_output(out: Path, sources: tuple[Path, ...], force: bool) -> None:
    """Refuse an output that would overwrite something, above all the release itself."""
    for source in sources:
        if out.resolve() == source.resolve() or out.resolve() in source.resolve().parents:
            raise DataError(f"the output {out} would replace the release")
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} exists and is not a folder")
    content = {path.name for path in out.iterdir()}
    if foreign := sorted(content - {"images", "labels"}):
        raise DataError(f"{out} is not a converted CamVid: it contains {foreign[0]}")
    if content and not force:
        raise DataError(f"{out} exists; --force replaces it")


def replace(new: Path, out: Path) -> None:
    """Put `new` at `out`; whatever is there goes away only after that."""
    old = new.with_name(new.name + ".old")
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = options.Parser(
        __doc__,
        ("RELEASE", "folder of the unpacked release"),
        ("OUT", "folder to create, e.g. data/camvid"),
        allow_abbrev=True,
    )
    add = parser.add_argument
    add("--release", type=Path, help=argparse.SUPPRESS)
    add("--out", dest="output", type=Path, metavar="DIR", help="the same as OUT")
    add("--images", type=Path, metavar="DIR", help=f"default: RELEASE/{IMAGE_DIR}")
    add("--labels", type=Path, metavar="DIR", help=f"default: RELEASE/{LABEL_DIR}")
    add("--force", action="store_true", help="replace an earlier conversion")
    add("--unknown-as-void", action="store_true", help="colours of no class become void")
    options.add_verbosity(parser)
    return parser.read(argv, "release", "output", required=["release", "output"])


def run(args: argparse.Namespace) -> dict[str, int]:
    """Convert as the command line says; returns the number of frames in each split."""
    if not args.release.is_dir():
        raise DataError(f"folder not found: {args.release}")
    images = args.images or args.release / IMAGE_DIR
    labels = args.labels or args.release / LABEL_DIR
    check_output(args.output, (args.release, images, labels), args.force)
    pairs = find_pairs(images, labels)
    colour_file = args.release / COLOUR_FILE
    colours = read_colours(colour_file) if colour_file.is_file() else COLOURS

    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.parent / f".{args.output.name}.{os.getpid()}.partial"
    partial.mkdir()
    try:
        frames = convert(pairs, class_table(colours), partial, args.unknown_as_void)
        splits = []
        with progress_bar(args, "converting", len(pairs)) as (advance, _):
            for split in frames:
                splits.append(split)
                advance(1)
        replace(partial, args.output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {split: splits.count(split) for split in SPLIT_SIZES}


def convert_camvid(args: argparse.Namespace) -> None:
    """Convert as the command line says, and say how many frames each split got."""
    try:
        counts = run(args)
    except OSError as error:
        raise DataError(str(error)) from None
    print(f"{args.output}: " + ", ".join(f"{n} {split}" for split, n in counts.items()))
    if counts != SPLIT_SIZES:
        expected = ", ".join(f"{n} {split}" for split, n in SPLIT_SIZES.items())
        print(f"warning: the full release gives {expected}", file=sys.stderr)


main = command(parse_args, convert_camvid, None, "nothing written")
