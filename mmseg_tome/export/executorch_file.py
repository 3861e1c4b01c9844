"""Writing a traced network as ExecuTorch's `.pte`, for phones and boards: XNNPACK on their CPUs."""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult

from mmseg_tome.export import program
from mmseg_tome.export.metadata import Metadata
from mmseg_tome.export.network import Network
from mmseg_tome.export.requirements import require
from mmseg_tome.export.tracing import SCORES_MIB

if TYPE_CHECKING:
    from executorch.exir import EdgeProgramManager

METADATA = "metadata"
"""Name of the method of a `.pte` that gives the metadata, as one JSON string."""


def check() -> None:
    """Raise UserError unless this installation can write `.pte` files."""
    require("executorch", what="writing ExecuTorch's files")


def trace(network: Network, size: tuple[int, int], scores_mib: int = SCORES_MIB) -> ExportedProgram:
    """As `program.trace`, in operators and a layout that ExecuTorch's kernels and XNNPACK have.

    Those of ONNX are among the portable kernels. Weights are NCHW, not channels-last.
    """
    network = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    with quiet():
        return _folded(program.trace(network, size, scores_mib=scores_mib, executorch=True))


def quantise(traced: ExportedProgram, images: Sequence[np.ndarray]) -> ExportedProgram:
    """The 8-bit form of a program by ExecuTorch's own quantiser for XNNPACK.

    Convolutions and linear layers are in 8 bits, a scale for each channel of a weight; products of
    activations, by which merging matches and attention weighs, stay float.

    Args:
        traced: By `trace`.
        images: `[C, H, W]` float32 each, normalised, by which ranges of activations are found.
    """
    with quiet():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        class Quantizer(XNNPACKQuantizer):
            """Without its turning of numbers that are added into floats, indices among them."""

            def transform_for_annotation(self, model):
                return model

        config = get_symmetric_quantization_config(is_per_channel=True)
        quantizer = Quantizer()
        for operator in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default):
            quantizer.set_operator_type(operator, config)
        prepared = prepare_pt2e(traced.module(), quantizer)
        with torch.no_grad():
            for image in images:
                prepared(torch.from_numpy(image)[None])
            example = (torch.from_numpy(images[0])[None],)
            return torch.export.export(convert_pt2e(prepared), example)


def lower(traced: ExportedProgram, metadata: Metadata) -> "EdgeProgramManager":
    """The program with all that XNNPACK has in calls of it."""
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        return to_edge_transform_and_lower(
            copy.deepcopy(traced),  # its constants are taken out
            transform_passes=[_with_fewer_copies],
            partitioner=[XnnpackPartitioner()],
            constant_methods={METADATA: json.dumps(metadata.to_strings())},
        )


def write(traced: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Write a program to a file that names what is in it.

    Args:
        traced: By `trace`, or what `quantise` made of it.
        path: The file.
        metadata: What a method of the file, `METADATA`, gives.
    """
    with quiet():
        content = lower(traced, metadata).to_executorch().buffer
    path.write_bytes(content)


def _with_fewer_copies(module: GraphModule) -> PassResult:
    """A graph of edge operators in which what only changes a shape is a view, or nothing.

    Of such operators XNNPACK has views alone; all that it has not cuts its part of the graph in
    two, and is computed by one thread.
    """
    from executorch.exir.dialects._ops import ops

    aten = ops.edge.aten
    view = aten.view_copy.default
    shaping = [
        view,
        aten.alias_copy.default,
        aten.expand_copy.default,
        aten.squeeze_copy.dims,
        aten.unsqueeze_copy.default,
    ]
    for node in module.graph.nodes:
        if node.target not in shaping:
            continue
        source, shape = node.args[0], node.meta["val"].shape
        if source.meta["val"].numel() != shape.numel():  # it is repeated
            continue
        if source.target is view:
            source = source.args[0]
        node.target, node.args, node.kwargs = view, (source, list(shape)), {}
        if source.meta["val"].shape == shape:
            node.replace_all_uses_with(source)
    module.graph.eliminate_dead_code()
    module.recompile()
    return PassResult(module, True)


def _folded(traced: ExportedProgram) -> ExportedProgram:
    """Weights that are computed from weights as constants: XNNPACK takes no others.

    Each in memory of its own: of a slice, XNNPACK's serialiser reads the tensor's beginning.
    """
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    traced = constant_prop_pass(traced)
    names = traced.graph_signature.inputs_to_lifted_tensor_constants
    for node in traced.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            constant = traced.constants[names[node.name]]
            apart = constant.clone(memory_format=torch.contiguous_format)
            traced.constants[names[node.name]] = apart
            shown = node.meta["val"]
            node.meta["val"] = shown.clone(memory_format=torch.contiguous_format)
    return traced


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what ExecuTorch and torchao tell their own developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
