"""Our segmentor beside the stock one with the same weights."""

import copy
import pickle

import pytest
import torch

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip

pytestmark = [
    pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg"),
    pytest.mark.usefixtures("one_thread"),
]

SLIDE = dict(mode="slide", crop_size=(64, 64), stride=(48, 40))
WHOLE = dict(mode="whole")
IN_CHANNELS = [8, 16]


@pytest.fixture(autouse=True)
def scope_of_mmseg():
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture
def build():
    """The stock segmentor and ours."""
    from mmengine.config import ConfigDict
    from mmengine.registry import MODELS

    def build(test_cfg, head=None, **kwargs):
        head = dict(
            type="mmseg_tome.SegformerHead",
            in_channels=IN_CHANNELS,
            in_index=[0, 1],
            channels=16,
            num_classes=7,
            norm_cfg=dict(type="BN"),
        ) | (head or {})
        models = []
        for scope in ("mmseg", "mmseg_tome"):
            config = dict(
                type=f"{scope}.EncoderDecoder",
                data_preprocessor=dict(type="mmseg.SegDataPreProcessor"),
                backbone=dict(
                    type="mmseg_tome.MixVisionTransformer",
                    embed_dims=8,
                    num_stages=2,
                    num_layers=[1, 1],
                    num_heads=[1, 2],
                    strides=[4, 2],
                    patch_sizes=[7, 3],
                    sr_ratios=[4, 2],
                    out_indices=(0, 1),
                ),
                decode_head=head,
                test_cfg=test_cfg,
                **kwargs,
            )
            models.append(MODELS.build(ConfigDict(copy.deepcopy(config))).eval())
        stock, ours = models
        for parameter in stock.parameters():
            if parameter.ndim > 1:  # without biases, by which one class would win everywhere
                torch.nn.init.normal_(parameter, std=0.3)
        ours.load_state_dict(stock.state_dict())
        return stock, ours

    return build


def samples_of(*metas):
    from mmseg.structures import SegDataSample

    return [SegDataSample(metainfo=copy.deepcopy(meta)) for meta in metas]


def meta_of(hw, ori=None, padding=None, **more):
    meta = dict(img_shape=hw, pad_shape=hw, ori_shape=ori or hw, **more)
    return meta if padding is None else meta | dict(img_padding_size=padding)


@torch.no_grad()
def predict(model, image, metas):
    return model.predict(image, None if metas is None else samples_of(*metas))


def assert_equal(ours, stock, exactly=False):
    assert len(ours) == len(stock)
    for one, other in zip(ours, stock, strict=True):
        logits, expected = one.seg_logits.data, other.seg_logits.data
        assert logits.shape == expected.shape
        assert logits.dtype == expected.dtype
        limit = 0 if exactly else 1e-5 * expected.abs().max()
        assert (logits - expected).abs().max() <= limit
        differ = one.pred_sem_seg.data != other.pred_sem_seg.data
        assert differ.double().mean() <= (0 if exactly else 1e-3)


SIZES = [(64, 64), (100, 130), (50, 200), (40, 40), (65, 97)]


@pytest.mark.parametrize("hw", SIZES, ids=str)
@pytest.mark.parametrize("window_batch", [1, 3, 100])
def test_windows_in_batches_give_the_stock_result(build, hw, window_batch):
    stock, ours = build(SLIDE | dict(window_batch=window_batch))
    image, metas = torch.randn(2, 3, *hw), [meta_of(hw), meta_of(hw, (77, 33))]
    assert_equal(predict(ours, image, metas), predict(stock, image, metas))
    assert_equal(predict(ours, image, None), predict(stock, image, None))


@pytest.mark.parametrize("test_cfg", [SLIDE, WHOLE], ids=["slide", "whole"])
def test_on_a_cpu_nothing_changes(build, test_cfg):
    stock, ours = build(test_cfg)
    image, metas = torch.randn(2, 3, 100, 130), [meta_of((100, 130))] * 2
    assert_equal(predict(ours, image, metas), predict(stock, image, metas), exactly=True)


def batches_of(model, image, metas=None):
    """How many windows the backbone sees at a time."""
    seen = []
    handle = model.backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    predict(model, image, metas)
    handle.remove()
    return seen


@pytest.mark.parametrize("labels_only", [False, True])
def test_batches_are_balanced_and_cross_images(build, labels_only):
    image = torch.randn(2, 3, 64, 224)  # 5 windows an image
    for window_batch, expected in {4: [4, 3, 3], 9: [5, 5], 10: [10], 1: [1] * 10}.items():
        _, ours = build(SLIDE | dict(window_batch=window_batch))
        ours.labels_only = labels_only
        assert batches_of(ours, image) == expected
    _, ours = build(SLIDE)
    ours.labels_only = labels_only
    assert batches_of(ours, image) == [2] * 5  # a CPU: one window of each image, as in mmseg


@pytest.mark.parametrize("labels_only", [False, True])
def test_out_of_memory_halves_the_batch_and_is_remembered(build, labels_only, caplog):
    stock, ours = build(SLIDE | dict(window_batch=100))
    ours.labels_only = labels_only
    image, metas = torch.randn(1, 3, 64, 224), [meta_of((64, 224))]
    tried, extract = [], ours.extract_feat

    def limited(inputs):
        tried.append(len(inputs))
        if len(inputs) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return extract(inputs)

    ours.extract_feat = limited
    result, expected = predict(ours, image, metas)[0], predict(stock, image, metas)[0]
    assert tried == [5, 2, 2, 1]
    assert (result.pred_sem_seg.data == expected.pred_sem_seg.data).double().mean() > 0.999
    tried.clear()
    predict(ours, image, metas)
    assert tried == [2, 2, 1]

    def never(inputs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    ours.extract_feat = never
    with pytest.raises(torch.cuda.OutOfMemoryError):
        predict(ours, image, metas)


def test_metas_of_the_caller_stay_as_they_are(build):
    _, ours = build(SLIDE | dict(window_batch=4))
    metas = [meta_of((100, 130))]
    before = copy.deepcopy(metas)
    with torch.no_grad():
        ours.inference(torch.randn(1, 3, 100, 130), metas)
    assert metas == before


def assert_labels_are_stock(build, test_cfg, image, metas, **kwargs):
    stock, ours = build(test_cfg, **kwargs)
    ours.labels_only = True
    results, expected = predict(ours, image, metas), predict(stock, image, metas)
    assert len(results) == len(expected)
    for result, other in zip(results, expected, strict=True):
        assert "seg_logits" not in result.keys()  # noqa: SIM118 (not what `in` looks at)
        labels = result.pred_sem_seg.data
        assert labels.dtype == other.pred_sem_seg.data.dtype
        assert labels.shape == other.pred_sem_seg.data.shape
        assert torch.equal(labels, other.pred_sem_seg.data)
        assert len(labels.unique()) > 1


@pytest.mark.parametrize("test_cfg", [SLIDE, WHOLE], ids=["slide", "whole"])
@pytest.mark.parametrize("hw", SIZES, ids=str)
def test_labels_are_those_of_the_full_logits(build, test_cfg, hw):
    image = torch.randn(3, 3, *hw)
    metas = [meta_of(hw), meta_of(hw, (77, 33), [3, 2, 0, 5]), meta_of(hw, (hw[0] + 7, 150))]
    assert_labels_are_stock(build, test_cfg, image, metas)
    assert_labels_are_stock(build, test_cfg, image, None)


def test_a_whole_image_has_the_size_that_its_metas_say(build):
    image = torch.randn(1, 3, 64, 96)
    only_image = dict(img_shape=(60, 90), ori_shape=(50, 70))
    assert_labels_are_stock(build, WHOLE, image, [only_image])
    padded = dict(img_shape=(60, 90), ori_shape=(50, 70), pad_shape=(62, 94, 3))
    assert_labels_are_stock(build, WHOLE, image, [padded | dict(padding_size=[0, 4, 0, 2])])


OTHERS = {
    "align_corners": (SLIDE, dict(head=dict(align_corners=True)), {}),
    "one channel": (SLIDE, dict(head=dict(num_classes=2, out_channels=1, threshold=0.5)), {}),
    "flipped": (WHOLE, {}, dict(flip=True, flip_direction="horizontal")),
    "a head of its own": (
        SLIDE | dict(window_batch=3),
        dict(
            head=dict(
                type="mmseg.DAHead", in_channels=16, in_index=1, channels=8, pam_channels=4,
                norm_cfg=None,
            )
        ),
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_plain_argmax_takes_the_way_of_mmseg(build, case):
    test_cfg, kwargs, more = OTHERS[case]
    image, hw = torch.randn(2, 3, 65, 97), (65, 97)
    assert_labels_are_stock(build, test_cfg, image, [meta_of(hw, **more)] * 2, **kwargs)


def test_methods_of_ones_own_are_called(build):
    _, ours = build(WHOLE)
    ours.labels_only = True
    stock = ours.decode_head.predict
    called = []
    ours.decode_head.predict = lambda *args: called.append(args) or stock(*args)
    predict(ours, torch.randn(1, 3, 64, 64), [meta_of((64, 64))])
    assert called


@pytest.mark.parametrize("window_batch", [None, 3])
def test_test_time_augmentation(build, window_batch):
    from mmseg.models import SegTTAModel

    data = dict(
        inputs=[[torch.randn(3, 65, 97)], [torch.randn(3, 80, 100)]],
        data_samples=[
            samples_of(meta_of((65, 97), img_path="a")),
            samples_of(
                meta_of((80, 100), (65, 97), flip=True, flip_direction="horizontal", img_path="a")
            ),
        ],
    )
    results = []
    for model in build(SLIDE if window_batch is None else SLIDE | dict(window_batch=3)):
        with torch.no_grad():
            merged = SegTTAModel(module=model).test_step(copy.deepcopy(data))
        results.append(merged[0].pred_sem_seg.data)
    assert (results[0] == results[1]).double().mean() > 0.999


def test_training_is_stock(build):
    from mmengine.structures import PixelData

    auxiliary = dict(
        type="mmseg.FCNHead", in_channels=16, in_index=1, channels=8, num_convs=1, num_classes=7,
        norm_cfg=None,
    )  # fmt: skip
    stock, ours = build(WHOLE, auxiliary_head=auxiliary)
    samples = samples_of(meta_of((64, 64)))
    samples[0].gt_sem_seg = PixelData(data=torch.randint(0, 7, (1, 64, 64)))
    image = torch.randn(1, 3, 64, 64)
    losses = [model.loss(image, samples) for model in (stock, ours)]
    assert losses[0].keys() == losses[1].keys()
    assert any(key.startswith("aux") for key in losses[0])
    assert all(torch.equal(losses[0][key], losses[1][key]) for key in losses[0])


def test_copies_and_pickles(build):
    _, ours = build(SLIDE)
    ours.labels_only = True
    image = torch.randn(1, 3, 70, 70)
    expected = predict(ours, image, None)[0].pred_sem_seg.data
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(predict(twin, image, None)[0].pred_sem_seg.data, expected)


def test_windows_that_leave_pixels_out_are_refused(build):
    _, ours = build(dict(mode="slide", crop_size=(16, 16), stride=(32, 32), window_batch=2))
    with pytest.raises(ValueError, match="stride must not be larger"):
        predict(ours, torch.randn(1, 3, 64, 64), None)
