"""Writing a traced network as ONNX: operators of the standard alone, constants folded."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.export import ExportedProgram

from mmseg_tome.errors import UserError
from mmseg_tome.export.metadata import INPUT, Metadata
from mmseg_tome.export.requirements import require

OPSETS = range(18, 24)
"""Operator sets that torch's exporter writes and ONNX Runtime runs."""

OPSET = 20
"""The first with GELU as one operator: several times the speed of the formula in the runtime."""


def check(opset: int) -> None:
    """Raise UserError unless this installation can write ONNX of this operator set."""
    if opset not in OPSETS:
        raise UserError(f"--opset {opset} is not supported: {OPSETS[0]} to {OPSETS[-1]} are")
    require("onnx", "onnxscript", "onnxruntime", what="writing ONNX")


def write(program: ExportedProgram, path: Path, metadata: Metadata, opset: int = OPSET) -> None:
    """Write a program of `program.trace` to a file that names what is in it.

    Args:
        program: Traced for ONNX.
        path: The file.
        metadata: Goes into the model's `metadata_props`.
        opset: One of `OPSETS`.
    """
    import onnx

    with _quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[metadata.output],
            verbose=False,
        )
    model = written.model_proto
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if foreign:
        raise RuntimeError(f"operators beyond the ONNX standard: {', '.join(sorted(foreign))}")
    model.producer_name, model.producer_version = "mmseg_tome", metadata.version
    onnx.helper.set_model_props(model, metadata.to_strings())
    onnx.checker.check_model(model)
    onnx.save(model, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells its own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
