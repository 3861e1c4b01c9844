"""Slot maps travel with the grid: through blocks of a pass, compilers and threads, nowhere else."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmseg_tome import compat
from mmseg_tome.merging import parse_tome_cfg

pytestmark = pytest.mark.usefixtures("one_thread")

BSM = dict(mode="bsm", ratio=0.5, stride=(2, 2))
N2D = dict(mode="n2d", stride=(2, 2))
PYRAMID = dict(num_heads=[1, 2], sr_ratios=[2, 1], mlp_ratios=[2, 2], out_indices=(0, 1))
PVT = dict(PYRAMID, num_stages=2, embed_dims=8, num_layers=[1, 2], strides=[4, 2])


def backbone(name, tome_cfg):
    """A tiny backbone of two stages, or of one, in eval mode."""
    twins = dict(PYRAMID, embed_dims=[8, 16], depths=[2, 2], patch_sizes=[4, 2], strides=[4, 2])
    package, args = {
        "PCPVT": ("mmseg", twins),
        "SVT": ("mmseg", dict(twins, windiow_sizes=[3, 3])),
        "PyramidVisionTransformer": ("mmpose", dict(PVT, patch_sizes=[4, 2], paddings=[0, 0])),
        "VisionTransformer": (
            "mmseg",
            dict(img_size=32, patch_size=8, embed_dims=16, num_layers=2, num_heads=2),
        ),
    }[name]
    if not compat.has(package):
        pytest.skip(f"needs {package}")
    from mmseg_tome import models

    stages = 1 if name == "VisionTransformer" else 2
    model = getattr(models, name)(**args, tome_cfg=[tome_cfg] * stages)
    model.eval()
    return model


NAMES = ["PCPVT", "SVT", "PyramidVisionTransformer", "VisionTransformer"]


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_graph_breaks(name):
    model = backbone(name, dict(q=BSM, kv=N2D, reuse=2))
    image = torch.randn(1, 3, 40, 48)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")(image)
        torch.testing.assert_close(tuple(compiled), tuple(model(image)))


@pytest.mark.parametrize("name", NAMES)
def test_threads_do_not_take_one_anothers_slot_maps(name):
    model = backbone(name, dict(q=BSM, kv=BSM, reuse=2))
    images = [torch.randn(1, 3, *size) for size in ((32, 64), (64, 32), (48, 48))] * 8

    def run(image):
        with torch.no_grad():
            return model(image)

    expected = [run(image) for image in images[:3]] * 8
    with ThreadPoolExecutor(3) as pool:
        for outs, wanted in zip(pool.map(run, images), expected, strict=True):
            torch.testing.assert_close(tuple(outs), tuple(wanted))


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
def test_an_attention_on_its_own_takes_a_plain_grid():
    model = backbone("PCPVT", dict(q=BSM, kv=N2D))
    attention, x = model.layers[0][0].attn, torch.randn(2, 48, 8)
    how = parse_tome_cfg([dict(q=BSM, kv=N2D)], 1)[0]
    out = attention(x, (6, 8), identity=0.0)
    slots = how.q(x, (6, 8))
    # Tokens of a slot are updated alike.
    torch.testing.assert_close(slots.unmerge(slots.merge(out)), out)
    torch.testing.assert_close(attention(x, (6, 8)), x + out)
