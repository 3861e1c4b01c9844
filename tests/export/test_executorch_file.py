"""ExecuTorch's files: what they compute, say of themselves, and cost in 8 bits."""

import numpy as np
import pytest
import torch

from mmseg_tome.errors import UserError
from mmseg_tome.export import executorch_file, parity, program
from mmseg_tome.export.runtime import open_exported

pytest.importorskip("executorch", reason="needs executorch")
pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = {"segmentation": (64, 96), "pose": (96, 72)}
CASES = [
    ("segmentation", None),
    ("segmentation", "hq"),
    ("segmentation", "n2d"),
    ("segmentation", "speed"),
    ("pose", "fast"),
]


@pytest.mark.parametrize(("task", "preset"), CASES)
def test_a_file_computes_what_torch_does(tiny, described, tmp_path, task, preset):
    cfg, network = tiny(task, preset)
    size, path = SIZE[task], tmp_path / "model.pte"
    metadata = described(cfg, network, size, config="é.py")
    images = program.smooth_images(size, 2)
    with torch.no_grad():
        expected = network(images).numpy()
    executorch_file.write(executorch_file.trace(network, size), path, metadata)
    exported = open_exported(path)
    assert exported.metadata == metadata
    first = exported(images[:1].numpy())
    found = parity.compare(exported(images.numpy()), expected, task)
    assert found.holds(), str(found)
    assert np.abs(first - expected[:1]).max() < 1e-3  # the second run did not overwrite it


@pytest.mark.parametrize(
    ("preset", "more"),
    [
        (None, set()),
        ("n2d", {"index_select"}),
        ("hq", {"index_select", "repeat", "view_copy", "sum"}),  # view_copy: of integers
    ],
)
def test_little_is_left_to_kernels_of_one_thread(tiny, described, preset, more):
    """XNNPACK has products, poolings and copies, where it is asked for them in its own terms."""
    cfg, network = tiny("segmentation", preset)
    size = SIZE["segmentation"]
    traced = executorch_file.trace(network, size)
    graph = executorch_file.lower(traced, described(cfg, network, size)).exported_program().graph
    large = [node for node in graph.nodes if getattr(node.meta.get("val"), "ndim", 0) > 2]
    names = {str(node.target).split(".")[1] for node in large if "aten." in str(node.target)}
    assert names - more <= {"native_layer_norm"}


def test_8_bits_nearly_agree(tiny, described, tmp_path):
    cfg, network = tiny("segmentation", "hq")
    size, path = SIZE["segmentation"], tmp_path / "model.pte"
    images = program.smooth_images(size, 4)
    with torch.no_grad():
        expected = network(images[2:]).numpy()
    traced = executorch_file.trace(network, size)
    quantised = executorch_file.quantise(traced, list(images[:2].numpy()))
    assert any("quantize_per" in str(node.target) for node in quantised.graph.nodes)
    executorch_file.write(quantised, path, described(cfg, network, size, precision="int8"))
    exported = open_exported(path)
    assert exported.metadata.precision == "int8"
    found = parity.compare(exported(images[2:].numpy()), expected, "segmentation")
    assert found.finite
    assert found.agreement > 0.8


@pytest.mark.parametrize("content", [b"nothing", b""])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "damaged.pte"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged.pte cannot be run by ExecuTorch"):
        open_exported(path)


def test_a_file_of_others_is_named(tmp_path):
    from executorch.exir import to_edge_transform_and_lower

    path = tmp_path / "other.pte"
    traced = torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))
    path.write_bytes(to_edge_transform_and_lower(traced).to_executorch().buffer)
    with pytest.raises(UserError, match=r"it has not the methods that mmseg-tome export writes"):
        open_exported(path)
