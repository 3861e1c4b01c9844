"""What is read from parameters, and what is said of those that do not fit together."""

import pytest
import torch
from mmengine.config import Config

from mmseg_tome.checkpoints import ConversionError
from mmseg_tome.checkpoints.architecture import (
    VARIANTS,
    Architecture,
    Head,
    check_whole,
    read_architecture,
    read_head,
)

TINY = Architecture(3, 8, (1, 2, 1, 1))


def parameters(architecture: Architecture, head: Head | None = None) -> dict[str, torch.Tensor]:
    shapes = dict(architecture.shapes())
    shapes.update(head.shapes(architecture.channels) if head else ())
    return {key: torch.zeros(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize(
    "architecture",
    [
        TINY,
        Architecture(4, 8, (1, 1), (2, 3), (5, 3), (3, 2), (2, 1), 2),
        Architecture(3, 8, (1, 1, 1, 1), qkv_bias=False),
    ],
    ids=["tiny", "other", "no bias"],
)
def test_shapes_are_the_backbones(architecture):
    from dataclasses import asdict

    from mmseg_tome.models import MixVisionTransformer

    stages = len(architecture.num_layers)
    model = MixVisionTransformer(
        **asdict(architecture), num_stages=stages, out_indices=range(stages)
    )
    expected = {f"backbone.{key}": tuple(value.shape) for key, value in model.state_dict().items()}
    assert dict(architecture.shapes()) == expected
    told = dict(num_heads=architecture.num_heads, strides=architecture.strides)
    assert read_architecture(parameters(architecture), **told) == architecture


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_those_of_the_configs(repo, variant):
    model = Config.fromfile(repo / f"configs/_base_/models/segformer_mit_{variant}.py").model
    backbone = model.backbone
    settings = {k: backbone[k] for k in ("in_channels", "embed_dims", "num_layers", "num_heads")}
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    architecture = Architecture(**settings)
    assert architecture.variant == variant
    assert list(architecture.channels) == model.decode_head.in_channels
    for name in ("patch_sizes", "sr_ratios", "mlp_ratio", "qkv_bias"):
        assert (
            list(backbone[name])
            if isinstance(backbone[name], list)
            else backbone[name] == (getattr(architecture, name))
        )


@pytest.mark.parametrize("task", ["segmentation", "pose"])
@pytest.mark.parametrize("linear", [True, False])
def test_heads_are_read(task, linear):
    head = Head(task, linear, channels=16, outputs=7)
    state = parameters(TINY, head)
    assert read_head(state) == head
    check_whole(state, TINY, head)


def test_mistakes_are_named():
    head = Head("segmentation", True, 16, 7)
    state = parameters(TINY, head)
    name = "backbone.layers.1.1.1.ffn.layers.1.weight"
    with pytest.raises(ConversionError, match=f"lacks 1 of {len(state)} parameters: {name}"):
        check_whole({k: v for k, v in state.items() if k != name}, TINY, head)
    with pytest.raises(ConversionError, match=rf"{name} is \(1,\), not \(64, 1, 3, 3\)"):
        check_whole({**state, name: torch.zeros(1)}, TINY, head)
    with pytest.raises(ConversionError, match=r"not of this model: decode_head\.convs\.4\.conv"):
        check_whole({**state, "decode_head.convs.4.conv.weight": torch.zeros(1)}, TINY, head)
    with pytest.raises(ConversionError, match=r"of the stages \[0, 2, 3\] only"):
        read_architecture({k: v for k, v in state.items() if ".layers.1." not in k})
    first = "backbone.layers.0.0.projection.weight"
    with pytest.raises(ConversionError, match=f"lacks {first}"):
        read_architecture({k: v for k, v in state.items() if k != first})
    far = state[name].clone()
    with pytest.raises(ConversionError, match="stage 1 has 3 blocks, one of them number 99999999"):
        read_architecture({**state, "backbone.layers.1.1.99999999.norm1.weight": far})
    with pytest.raises(ConversionError, match=r"with \[0, 0, 0, 0\] attention heads"):
        read_architecture(state, num_heads=[0] * 4)
