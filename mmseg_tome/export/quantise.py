"""INT8 by ONNX Runtime's own quantiser.

Weights and activations of convolutions and linear layers become 8-bit integers. What merging
matches by, and attention's products of activations, stay float: they decide by differences far
smaller than a 256th of a range.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mmseg_tome.export.metadata import INPUT, Metadata


def quantise(
    source: Path, target: Path, images: Iterable[np.ndarray] | None, metadata: Metadata
) -> None:
    """Write the INT8 form of an ONNX file.

    Args:
        source: A float32 file.
        target: What is written.
        images: `[C, H, W]` float32 each, normalised, by which the ranges of activations are found
            (static, QDQ, a scale for each channel of a weight). None finds ranges while running
            (dynamic), which ONNX Runtime does fast for matrix products alone.
        metadata: Of the file that is written.
    """
    import onnx
    from onnxruntime import quantization

    types = ["MatMul", "Gemm"] if images is None else ["Conv", "MatMul", "Gemm"]
    folded = target.with_name(f".folded{target.name}")
    logging.getLogger().addFilter(_without_advice)
    try:
        _fold(source, folded)
        options = dict(
            per_channel=True,
            op_types_to_quantize=types,
            nodes_to_exclude=_without_weights(folded, types),
        )
        if images is None:
            quantization.quantize_dynamic(folded, target, **options)
        else:
            quantization.quantize_static(
                folded,
                target,
                _Reader(images),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                **options,
            )
    finally:
        logging.getLogger().removeFilter(_without_advice)
        folded.unlink(missing_ok=True)
    model = onnx.load(target)
    _name_used_operators(model)
    onnx.helper.set_model_props(model, metadata.to_strings())
    onnx.save(model, target)


def _fold(source: Path, folded: Path) -> None:
    """Write a file whose constants are computed: slices of a weight become weights, norms go."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _name_used_operators(model) -> None:
    """Take out the operator sets of ONNX Runtime's own that no node is of."""
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


class _Reader:
    """ONNX Runtime's calibration data: one image after the other."""

    def __init__(self, images: Iterable[np.ndarray]):
        self._images: Iterator[np.ndarray] = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def _without_weights(path: Path, types: list[str]) -> list[str]:
    """Names of the nodes of `types` whose factors are both computed: matching and attention."""
    import onnx

    graph = onnx.load(path).graph
    weights = {initializer.name for initializer in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in types and not weights.intersection(node.input)
    ]


def _without_advice(record: logging.LogRecord) -> bool:
    return "pre-process" not in record.getMessage()
