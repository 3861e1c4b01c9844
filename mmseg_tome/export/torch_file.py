"""Writing a traced network in torch's own format, for torch without this package."""

import io
import warnings
from pathlib import Path

import torch
from torch.export import ExportedProgram

from mmseg_tome.export.metadata import Metadata


def write(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Write a program of `program.trace` as `.pt2`, the metadata in its `extra_files`."""
    with warnings.catch_warnings():
        # Slices of one weight are saved as such; torch asks whether they were on a GPU.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        content = io.BytesIO()  # on a full disk torch's own writer ends the process
        torch.export.save(program, content, extra_files=metadata.to_strings())
    path.write_bytes(content.getbuffer())
