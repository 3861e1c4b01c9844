"""Test-time augmentation of binary models is held to their threshold, of others it is mmseg's."""

import copy

import pytest
import torch

from mmseg_tome import compat

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")


@pytest.fixture
def segmentor():
    """A tiny segmentor in mmseg, by its classes and channels of output, and its TTA model."""
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    def build(num_classes: int, out_channels: int, kind: str, **head):
        init_default_scope("mmseg")
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type="EncoderDecoder",
                data_preprocessor=dict(type="SegDataPreProcessor"),
                backbone=dict(
                    type="mmseg_tome.MixVisionTransformer",
                    embed_dims=8,
                    num_layers=[1, 1, 1, 1],
                    num_heads=[1, 2, 3, 4],
                ),
                decode_head=dict(
                    type="mmseg_tome.SegformerHead",
                    in_channels=[8, 16, 24, 32],
                    in_index=[0, 1, 2, 3],
                    channels=16,
                    num_classes=num_classes,
                    out_channels=out_channels,
                    align_corners=False,
                    **head,
                ),
                test_cfg=ConfigDict(mode="whole"),
            )
        )
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        with torch.no_grad():  # logits on both sides of any threshold
            logits = model.eval()(torch.randn(1, 3, 64, 96), None, mode="tensor")
            model.decode_head.conv_seg.bias -= logits.median()
            model.decode_head.conv_seg.weight *= 4 / logits.std()
            model.decode_head.conv_seg.bias *= 4 / logits.std()
        return MODELS.build(dict(type=kind, module=model)).eval()

    return build


def views_of(images: torch.Tensor) -> dict:
    """Each image and its mirror image, as a test-time pipeline packs them."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    def sample(flip: bool):
        data = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, *images.shape[2:])))
        size = tuple(images.shape[2:])
        data.set_metainfo(
            dict(
                img_path="a.png", ori_shape=size, img_shape=size, flip=flip,
                flip_direction="horizontal" if flip else None,
            )
        )  # fmt: skip
        return data

    return dict(
        inputs=[list(images), list(images.flip(3))],
        data_samples=[[sample(False) for _ in images], [sample(True) for _ in images]],
    )


def predict(tta, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = tta.test_step(views_of(images))
    return torch.stack([each.pred_sem_seg.data.reshape(images.shape[2:]) for each in found])


@pytest.mark.parametrize(("classes", "threshold"), [(2, 0.3), (2, 0.5), (1, 0.6)])
def test_the_mean_probability_is_held_to_the_threshold(segmentor, classes, threshold):
    tta = segmentor(classes, 1, "mmseg_tome.SegTTAModel", threshold=threshold)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        logits = [tta.module(view, None, mode="tensor") for view in (images, images.flip(3))]
        plain, mirrored = (
            torch.nn.functional.interpolate(x, (64, 96), mode="bilinear") for x in logits
        )
        mean = (plain.sigmoid() + mirrored.flip(3).sigmoid()) / 2
    expected = (mean[:, 0] > threshold).float()
    assert 0.001 < expected.mean() < 0.999
    assert torch.equal(predict(tta, images), expected)


def test_mmsegs_own_sees_the_class_everywhere(segmentor):
    """Why ours is: should this fail, mmseg was mended and ours can go."""
    images = torch.randn(1, 3, 64, 96)
    stock = predict(segmentor(2, 1, "SegTTAModel", threshold=0.5), images)
    assert stock.all()


@pytest.mark.parametrize("kind", ["SegTTAModel", "mmseg.SegTTAModel", "mine.TTAModel"])
def test_test_py_takes_ours_in_the_place_of_mmsegs(kind):
    from mmengine.config import Config

    from mmseg_tome.cli.test import use_tta

    dataset = dict(type="BaseSegDataset", pipeline=[dict(type="LoadImageFromFile")])
    cfg = Config(
        dict(
            model=dict(type="EncoderDecoder"),
            tta_model=dict(type=kind),
            tta_pipeline=[dict(type="TestTimeAug")],
            test_dataloader=dict(dataset=dataset),
        )
    )
    use_tta(cfg)
    assert cfg.model.type == (kind if kind == "mine.TTAModel" else "mmseg_tome.SegTTAModel")
    assert cfg.model.module.type == "EncoderDecoder"


def test_of_several_classes_it_is_mmsegs(segmentor):
    images = torch.randn(1, 3, 64, 96)
    stock, ours = (segmentor(4, 4, kind) for kind in ("SegTTAModel", "mmseg_tome.SegTTAModel"))
    ours.module.load_state_dict(copy.deepcopy(stock.module.state_dict()))
    assert torch.equal(predict(stock, images), predict(ours, images))
