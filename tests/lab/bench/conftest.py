"""Tests of benchmarks: the smallest networks that hold every part, and runs of the tool on them."""

import json

import pytest
import torch

CONFIG = """
model = dict(
    type="EncoderDecoder",
    backbone=dict(
        type="mmseg_tome.MixVisionTransformer", embed_dims=8, num_layers=[1, 1, 1, 1],
        num_heads=[1, 2, 5, 8], tome_cfg={tome_cfg},
        init_cfg=dict(type="Pretrained", checkpoint="http://nowhere.invalid/mit.pth")),
    decode_head=dict(
        type="mmseg_tome.SegformerHead", in_channels=[8, 16, 40, 64], in_index=[0, 1, 2, 3],
        channels=16, num_classes=5, norm_cfg=dict(type="SyncBN", requires_grad=True)))
crop_size = (64, 96)
"""


@pytest.fixture
def tiny_config(tmp_path):
    """Write a config of a tiny SegFormer; its merging is the argument."""

    def write(name, tome_cfg=None):
        path = tmp_path / f"{name}.py"
        path.write_text(CONFIG.format(tome_cfg=repr(tome_cfg)))
        return str(path)

    return write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The model of such a config with named variants, its dropout as it is or as it is said."""
    from mmseg_tome.lab.bench import networks

    path = tmp_path_factory.mktemp("tiny") / "tiny.py"
    path.write_text(CONFIG.format(tome_cfg=None))

    def make(variants, drop=None):
        (model,) = networks.config_models([str(path)])
        model.variants = {v: networks.PRESETS[v] for v in variants if v != "mixed"}
        if "mixed" in variants:
            model.variants["mixed"] = {"tome_cfg": MIXED}
        if drop is not None:
            model.backbone["drop_path_rate"] = model.head["dropout_ratio"] = drop
        return model

    return make


MIXED = [
    dict(q_mode="n1d", q_s=2, kv_mode="bsm", kv_r=0.6, kv_sx=2, kv_sy=2),
    dict(q=dict(mode="n2d", stride=(2, 2)), kv=dict(mode="n2d", stride=(2, 2))),
    dict(q_mode="bsm", q_r=0.5, q_sx=2, q_sy=3),
    dict(),
]


@pytest.fixture(scope="session")
def mixed():
    """A `tome_cfg` of every strategy that the peer has, in both ways of writing them."""
    return MIXED


@pytest.fixture(scope="session")
def one_block():
    """A backbone of one block: 8x8 tokens of 8 channels, 32 queries, 16 keys/values become 4."""
    from mmseg_tome.lab.bench import networks

    backbone = dict(
        type="mmseg_tome.MixVisionTransformer", embed_dims=8, num_stages=1, num_layers=[1],
        num_heads=[1], patch_sizes=[7], strides=[4], sr_ratios=[2], out_indices=(0,),
    )  # fmt: skip
    q, kv = dict(mode="bsm", ratio=0.5, stride=(2, 2)), dict(mode="n2d", stride=(2, 2))

    def build(of_peer=False):
        model = networks.Model("tiny", backbone, {"type": ""})
        net = networks.build(model, {"tome_cfg": [dict(q=q, kv=kv)]}, of_peer, part="backbone")
        image = torch.randn(1, 3, 32, 32)
        forward = torch.inference_mode()(lambda: net(image))
        forward()  # fills caches
        return net, forward

    return build


@pytest.fixture
def run(tmp_path):
    """Run `tools/benchmark.py`; its exit code and report. Files are in `out`."""
    from mmseg_tome.cli import benchmark

    def benchmark_run(*args, rounds=2):
        out = tmp_path / "out"
        code = benchmark.main([*args, "--rounds", str(rounds), "--out", str(out)])
        return code, json.loads((out / "benchmark.json").read_text())

    return benchmark_run
