"""The page that runs ONNX files in a browser: what lies beside them in the folder."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.errors import UserError
from mmseg_tome.export.metadata import Metadata
from mmseg_tome.export.ort_web import VERSION
from mmseg_tome.export.parity import THRESHOLD, Parity

TEMPLATE = Path(__file__).parent / "web"
SETTINGS = "model.json"


def check_folder(path: Path) -> None:
    """Raise UserError if a path is taken by anything but a page of an earlier export."""
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {path} is a file: --format web writes a folder")
    if path.is_dir() and any(path.iterdir()) and not (path / SETTINGS).is_file():
        raise UserError(f"--out {path} holds other files: name a new folder, or an empty one")


def check_metadata(metadata: Metadata) -> None:
    """Raise UserError if the page cannot show what a network gives."""
    if metadata.task != "segmentation":
        raise UserError("--format web is for segmentation: the page shows no keypoints")
    if metadata.channels != 3:
        raise UserError(
            f"--format web is for colour images: this takes {metadata.channels} channels"
        )


def write_page(folder: Path, metadata: Metadata, files: Sequence[tuple[str, Path, Parity]]) -> None:
    """Write the page and what it has to know into the folder of its ONNX files.

    Args:
        folder: There the files of `files` lie, and ONNX Runtime Web in `ort`.
        metadata: Of any of the files.
        files: Preset, file and agreement with torch of each.
    """
    for file in TEMPLATE.iterdir():
        shutil.copyfile(file, folder / file.name)
    head = metadata.inference["model"]["decode_head"]
    settings = {
        "mmseg_tome": metadata.version,
        "onnxruntime_web": VERSION,
        **{name: getattr(metadata, name) for name in SHOWN},
        "palette": metadata.dataset_meta.get("palette") or [],
        "threshold": THRESHOLD if metadata.threshold is None else metadata.threshold,
        "align_corners": bool(head.get("align_corners")),
        "models": [
            {
                "preset": preset,
                "file": path.relative_to(folder).as_posix(),
                "bytes": path.stat().st_size,
                "agreement_with_torch": found.agreement,
            }
            for preset, path, found in files
        ],
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")


SHOWN = ("config", "input_size", "mean", "std", "channel_order", "pad_value", "names")
"""Fields of the metadata that the page reads."""
