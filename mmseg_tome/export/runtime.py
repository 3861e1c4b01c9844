"""Running exported files: one call for ONNX, torch's `.pt2` and ExecuTorch's `.pte`."""

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from mmseg_tome.errors import UserError, first_line
from mmseg_tome.export.metadata import INPUT, Metadata
from mmseg_tome.export.requirements import require

ONNX, TORCH, EXECUTORCH = ".onnx", ".pt2", ".pte"


class Exported(Protocol):
    """An exported network: `[B, C, H, W]` float32 normalised images -> `[B, K, h, w]` float32."""

    metadata: Metadata

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


class OnnxNetwork:
    """An ONNX file in ONNX Runtime, on the CPU.

    Args:
        path: The file.
        threads: Of one operator; 0 for as many as the machine has cores.

    Raises:
        UserError: ONNX Runtime is missing, or cannot read the file.
    """

    def __init__(self, path: Path, threads: int = 0):
        require("onnxruntime", what=f"running {path.name}")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # pybind's classes, which have no common public base
            raise UserError(f"{path} cannot be run by ONNX Runtime: {first_line(error)}") from None
        strings = self.session.get_modelmeta().custom_metadata_map
        self.metadata = Metadata.from_strings(strings, str(path))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return _by_one(self._run, images, self.metadata.dynamic_batch)

    def _run(self, images: np.ndarray) -> np.ndarray:
        return self.session.run(None, {INPUT: images})[0]


class TorchNetwork:
    """A file of `torch.export` in torch, on the CPU.

    Args:
        path: The file.

    Raises:
        UserError: It cannot be read.
    """

    def __init__(self, path: Path):
        strings: dict[str, str] = dict.fromkeys(Metadata.__dataclass_fields__, "")
        try:
            program = torch.export.load(path, extra_files=strings)
        except Exception as error:  # of zip archives, of JSON, of torch
            raise UserError(f"{path} cannot be read by torch.export: {first_line(error)}") from None
        self.metadata = Metadata.from_strings(strings, str(path))
        self.module = program.module()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return _by_one(self._run, images, self.metadata.dynamic_batch)

    @torch.no_grad()
    def _run(self, images: np.ndarray) -> np.ndarray:
        return self.module(torch.from_numpy(images)).numpy()


class ExecutorchNetwork:
    """An ExecuTorch file in its runtime, on the CPU.

    Args:
        path: The file.

    Raises:
        UserError: ExecuTorch is missing, or cannot read the file.
    """

    def __init__(self, path: Path):
        require("executorch", what=f"running {path.name}")
        from mmseg_tome.export.executorch_file import METADATA, quiet

        with quiet():
            from executorch.runtime import Runtime

        try:
            self._program = Runtime.get().load_program(str(path))
            if not self._program.method_names >= {METADATA, "forward"}:
                raise RuntimeError("it has not the methods that mmseg-tome export writes")
            strings = json.loads(self._program.load_method(METADATA).execute([])[0])
            self._method = self._program.load_method("forward")
        except Exception as error:  # pybind's RuntimeError, ours, JSON's
            raise UserError(f"{path} cannot be run by ExecuTorch: {first_line(error)}") from None
        self.metadata = Metadata.from_strings(strings, str(path))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return _by_one(self._run, images, self.metadata.dynamic_batch)

    def _run(self, images: np.ndarray) -> np.ndarray:
        # What comes out lies in the runtime's own memory until it runs again.
        return self._method.execute([torch.from_numpy(images)])[0].numpy().copy()


def open_exported(path: str | Path) -> Exported:
    """Load an exported file by its ending.

    Raises:
        UserError: It is missing, of another kind, or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"exported model {path} does not exist")
    if path.suffix == ONNX:
        return OnnxNetwork(path)
    if path.suffix == TORCH:
        return TorchNetwork(path)
    if path.suffix == EXECUTORCH:
        return ExecutorchNetwork(path)
    raise UserError(
        f"{path} is no exported model: its name must end in {ONNX}, {TORCH} or {EXECUTORCH}"
    )


def _by_one(run, images: np.ndarray, dynamic: bool) -> np.ndarray:
    if dynamic or len(images) == 1:
        return run(images)
    return np.concatenate([run(images[i : i + 1]) for i in range(len(images))])
