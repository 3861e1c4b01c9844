"""Files that take images of any height and width."""

import numpy as np
import pytest
import torch

from mmseg_tome.errors import UserError
from mmseg_tome.export import onnx_file, parity, program, torch_file
from mmseg_tome.export.runtime import open_exported

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(128, 128), (129, 250), (300, 131), (256, 384)]
LOCAL = [
    dict(q=dict(mode="local", ratio=0.4), kv=dict(mode="local", ratio=0.6), proportional=True),
    dict(q=dict(mode="local", ratio=0.9, stride=(2, 3)), kv=dict(mode="local", ratio=0.3)),
]


@pytest.mark.parametrize(
    ("tome_cfg", "ending", "batch"),
    [
        ("hq", ".onnx", False),
        pytest.param("hq", ".pt2", True, marks=pytest.mark.slow),
        pytest.param(LOCAL, ".onnx", True, marks=pytest.mark.slow),
    ],
)
def test_one_file_is_right_at_every_size(tiny, described, tmp_path, tome_cfg, ending, batch):
    if ending == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    cfg, network = tiny("segmentation", tome_cfg)
    traced, least = program.trace_any_size(network, batch, for_onnx=ending == ".onnx")
    assert least <= 128
    path = tmp_path / f"model{ending}"
    metadata = described(cfg, network, (128, 192), min_side=least, dynamic_batch=batch)
    (onnx_file if ending == ".onnx" else torch_file).write(traced, path, metadata)
    exported = open_exported(path)
    assert exported.metadata.min_side == least
    for size in [*SIZES, (least, least)]:
        images = program.smooth_images(size, 3 if batch else 1)
        with torch.no_grad():
            expected = network(images).numpy()
        found = parity.compare(exported(images.numpy()), expected, "segmentation")
        assert found.holds(), (size, found)


def test_the_config_pre_processes_as_it_is(tiny, described):
    cfg, network = tiny()
    cfg.model.test_cfg = dict(mode="slide", crop_size=(128, 128), stride=(96, 96))
    parts = described(cfg, network, (64, 96), min_side=64).inference
    assert parts["model"]["test_cfg"]["mode"] == "slide"
    assert "test_cfg" not in parts["model"]["data_preprocessor"]
    steps = parts["test_dataloader"]["dataset"]["pipeline"]
    assert steps[1] == dict(type="Resize", scale=[200, 100], keep_ratio=True)


def test_a_network_of_one_size_is_named(tiny, monkeypatch):
    _, network = tiny()
    forward = network.model.backbone.forward
    monkeypatch.setattr(
        network.model.backbone, "forward", lambda x: forward(x[:, :, :64, :64] * int(x.shape[2]))
    )
    monkeypatch.setattr(program, "SIDES", (64,))
    with pytest.raises(UserError, match="--dynamic-size: this network cannot be traced"):
        program.trace_any_size(network)


def test_too_small_an_image_is_refused(tiny, described, monkeypatch):
    from mmseg_tome.export import reader as exported
    from mmseg_tome.nets.errors import ImageSizeError

    class Stub:
        metadata = described(*tiny(), (128, 192), min_side=128)

        def __call__(self, images):
            return images

    monkeypatch.setattr(exported, "_open", lambda path: Stub())
    backbone = exported.ExportedBackbone("any")
    assert backbone(torch.zeros(1, 3, 128, 300))[0].shape == (1, 3, 128, 300)
    with pytest.raises(ImageSizeError, match=r"128x127 pixels is too small .* at least 128"):
        backbone(torch.zeros(1, 3, 128, 127))


def test_sizes_that_a_symbol_stands_for_merge_as_numbers_do():
    """A symbol's part is computed in whole numbers, a number's in floating point."""
    from mmseg_tome.merging.strategies.bipartite import part_of

    class Symbol:
        def __init__(self, value):
            self.value = value

        def __mul__(self, other):
            return Symbol(self.value * other)

        def __floordiv__(self, other):
            return self.value // other

    for ratio in np.random.default_rng(0).uniform(0, 1, 20).round(3):
        for tokens in (7, 1000, 4096, 131072):
            assert abs(part_of(Symbol(tokens), float(ratio)) - part_of(tokens, float(ratio))) <= 1
