import functools

import numpy as np
import pytest
import torch

from mmseg_tome.errors import UserError
from mmseg_tome.export import onnx_file, parity, program
from mmseg_tome.export.quantise import quantise
from mmseg_tome.export.runtime import OnnxNetwork

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("one_thread")

TOME_CFGS = {
    "local": [
        dict(kv=dict(mode="local", ratio=0.5)),
        dict(q=dict(mode="local", ratio=0.6, stride=(2, 3)), kv=dict(mode="local", ratio=0.3)),
    ]
}
"""What is no preset, by names: what is written is kept by its arguments."""


@pytest.fixture(scope="module")
def written(tiny, described, tmp_path_factory):
    """A tiny network and the ONNX file of it; the same one for the same arguments."""

    @functools.cache
    def write(
        task="segmentation", tome_cfg="hq", size=(64, 96), half=False, opset=20, **options
    ) -> tuple:
        cfg, network = tiny(task, TOME_CFGS.get(tome_cfg, tome_cfg), half)
        dynamic = options.get("dynamic_batch", False)
        metadata = described(cfg, network, size, dynamic_batch=dynamic)
        path = tmp_path_factory.mktemp("written") / "model.onnx"
        onnx_file.write(program.trace(network, size, **options), path, metadata, opset)
        return network, path

    return write


def torchs(network, images) -> np.ndarray:
    with torch.no_grad():
        return network(images).numpy()


@pytest.mark.parametrize(
    ("task", "tome_cfg", "dynamic"),
    [
        ("segmentation", None, False),
        ("segmentation", "hq", True),
        ("segmentation", "fast", False),
        ("segmentation", "n2d", True),
        ("segmentation", "local", True),
        ("pose", "local", False),
        ("pose", None, False),
        ("pose", "hq", False),
        ("pose", "fast", False),
        ("pose", "n2d", False),
    ],
)
def test_onnx_runtime_computes_what_torch_computes(written, task, tome_cfg, dynamic):
    size = (97, 131) if task == "segmentation" else (96, 72)
    network, path = written(task, tome_cfg, size, dynamic_batch=dynamic)
    exported = OnnxNetwork(path, threads=2)
    for batch in (1, 4):
        for images in (program.random_images(size, batch), program.smooth_images(size, batch)):
            found = parity.compare(exported(images.numpy()), torchs(network, images), task)
            assert found.holds(), found


def test_whole_attention_in_an_older_operator_set(written):
    network, path = written(scores_mib=0, opset=18)
    exported = OnnxNetwork(path)
    assert exported.session.get_inputs()[0].shape == [1, 3, 64, 96]
    images = program.random_images((64, 96))
    assert parity.compare(exported(images.numpy()), torchs(network, images), "segmentation").holds()


def test_only_standard_operators_and_static_shapes(written):
    _, path = written()
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} <= {""}
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    names = {node.op_type for node in model.graph.node}
    assert {"ScatterElements", "TopK", "ArgMax", "Gelu", "LayerNormalization"} <= names
    # Nothing depends on data, and the maps of the grid are constants.
    assert not names & {"NonZero", "Loop", "If", "Unique", "Range", "Shape", "ScatterND"}


def test_half_keeps_its_inputs_and_outputs_in_float32(written, tiny):
    _, path = written(half=True)
    model = onnx.load(path)
    weights = [w for w in model.graph.initializer if len(w.dims) > 1]
    halves = sum(w.data_type == onnx.TensorProto.FLOAT16 for w in weights)
    assert halves > len(weights) / 2
    images = program.smooth_images((64, 96))
    _, network = tiny(tome_cfg="hq")
    found = parity.compare(
        OnnxNetwork(path)(images.numpy()), torchs(network, images), "segmentation"
    )
    assert found.finite
    assert found.agreement > 0.9


@pytest.mark.parametrize("calibrated", [True, False])
def test_int8_is_smaller_and_agrees_in_most_places(written, tmp_path, calibrated):
    _, path = written()
    images = list(program.smooth_images((64, 96), 3).numpy())
    before = OnnxNetwork(path)
    target = tmp_path / "int8.onnx"
    quantise(path, target, images if calibrated else None, before.metadata)
    after = OnnxNetwork(target)
    model = onnx.load(target)
    names = [node.op_type for node in model.graph.node]
    assert "QuantizeLinear" in names or "DynamicQuantizeLinear" in names
    matrices = [w for w in model.graph.initializer if len(w.dims) > 1]
    assert any(w.data_type == onnx.TensorProto.INT8 for w in matrices)
    if calibrated:  # all weights; what is left are empty sums and counts. Else convolutions, too
        floats = [w.name for w in matrices if w.data_type == onnx.TensorProto.FLOAT]
        assert [name for name in floats if not name.startswith(("zeros", "ones"))] == []
    assert [opset.domain for opset in model.opset_import] == [""]
    assert [file.name for file in tmp_path.glob(".*")] == []
    found = parity.compare(after(images[0][None]), before(images[0][None]), "segmentation")
    assert found.finite
    assert found.agreement > 0.8
    assert found.largest > 0


def test_openvino_runs_it_too(written):
    openvino = pytest.importorskip("openvino", reason="needs OpenVINO")
    network, path = written()
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = program.random_images((64, 96))
    got = compiled(images.numpy())[0]
    found = parity.compare(got, torchs(network, images), "segmentation")
    assert found.holds(), found


@pytest.mark.parametrize("opset", [16, 99])
def test_an_unsupported_opset_is_named(opset):
    with pytest.raises(UserError, match=f"--opset {opset} is not supported: 18 to 23"):
        onnx_file.check(opset)


def test_missing_packages_are_named(monkeypatch):
    from mmseg_tome.export import requirements

    absent = ("onnx", "onnxruntime")
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name in absent else 1)
    with pytest.raises(UserError, match="needs onnx, onnxruntime: pip install onnx onnxruntime"):
        onnx_file.check(20)
