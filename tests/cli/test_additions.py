"""What our tools add to a user's config: where the backbone is ours, and what is missing."""

import pytest
from mmengine.config import Config

from mmseg_tome import compat
from mmseg_tome.cli import additions
from mmseg_tome.registry import HOOKS

OURS = "mmseg_tome.MixVisionTransformer"


def config(backbone=OURS, **changes) -> Config:
    """As a user writes it: stock classes around a backbone."""
    loader = dict(batch_size=2, dataset=dict(type="RepeatDataset", dataset=dict(type="A")))
    cfg = dict(
        default_scope="mmseg",
        model=dict(type="EncoderDecoder", backbone=dict(type=backbone)),
        default_hooks=dict(logger=dict(type="LoggerHook")),
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-4)),
        train_dataloader=loader,
        test_dataloader=loader,
        test_evaluator=dict(type="IoUMetric", iou_metrics=["mIoU"]),
        tta_model=dict(type="SegTTAModel"),
    )
    return Config({**cfg, **changes})


def test_a_gpu_gets_drop_ins_and_hooks():
    cfg = config(val_evaluator=[dict(type="mmseg.IoUMetric"), dict(type="Other")])
    said = additions.complete(cfg, gpu=True)
    assert cfg.model.type == "mmseg_tome.EncoderDecoder"
    assert cfg.test_evaluator == dict(type="mmseg_tome.IoUMetric", iou_metrics=["mIoU"])
    assert [metric.type for metric in cfg.val_evaluator] == ["mmseg_tome.IoUMetric", "Other"]
    assert cfg.optim_wrapper.constructor == "mmseg_tome.GroupedOptimWrapperConstructor"
    wanted = {"logger", *additions.GUARDS, *additions.HOOKS}
    assert set(cfg.default_hooks) == wanted
    assert cfg.train_dataloader.collate_fn == dict(type="mmseg_tome.pinnable_collate")
    assert cfg.train_dataloader.pin_memory
    assert cfg.train_dataloader.dataset == config().train_dataloader.dataset
    assert cfg.tta_model == dict(type="SegTTAModel")
    assert said.startswith("added to the config: default_hooks.fast_inference, ")
    assert "mmseg_tome.EncoderDecoder, mmseg_tome.IoUMetric, mmseg_tome.Grouped" in said
    assert said.endswith("pinned memory of data loaders (train, test)")
    assert "\n" not in said
    assert additions.complete(cfg, gpu=True) is None


@pytest.mark.parametrize(
    ("workers", "cores", "given", "expected"),
    [(4, 16, (), 12), (14, 16, (), 14), (0, 16, (), 0), (4, 6, (), 6), (4, 2, (), 4),
     (4, 16, ("test_dataloader.num_workers",), 4)],
)  # fmt: skip
def test_more_workers_load_for_a_gpu(workers, cores, given, expected, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    cfg = config()
    cfg.test_dataloader = dict(num_workers=workers)
    said = additions.complete(cfg, gpu=True, given=given)
    assert cfg.test_dataloader.num_workers == expected
    assert (f"{expected} workers for each data loader" in said) == (expected != workers)


def test_a_cpu_gets_hooks_alone():
    cfg = config()
    said = additions.complete(cfg, gpu=False)
    assert said.count(", ") == len(additions.HOOKS) - 1
    untouched = config()
    for key in untouched:
        if key != "default_hooks":
            assert cfg[key] == untouched[key]


@pytest.mark.parametrize("backbone", ["MixVisionTransformer", "mmseg.MixVisionTransformer"])
def test_a_stock_model_stays_stock(backbone):
    cfg, untouched = config(backbone), config(backbone)
    assert additions.complete(cfg, gpu=True) is None
    assert set(cfg.default_hooks) == {"logger", *additions.GUARDS}
    cfg.default_hooks = untouched.default_hooks
    assert cfg.to_dict() == untouched.to_dict()


def test_only_what_is_exactly_stock_is_replaced():
    mine = dict(type="mine.EncoderDecoder", backbone=dict(type=OURS))
    named = dict(type="OptimWrapper", optimizer={}, constructor="DefaultOptimWrapperConstructor")
    several = dict(constructor="Several", generator={}, discriminator={})
    cfg = config(model=mine, optim_wrapper=named, test_evaluator=dict(type="mine.IoUMetric"))
    cfg.test_dataloader.collate_fn = dict(type="default_collate")
    cfg.train_dataloader.pin_memory = False
    before = cfg.to_dict()
    assert additions.complete(cfg, gpu=True).count(", ") == len(additions.HOOKS) - 1
    after = cfg.to_dict()
    del before["default_hooks"], after["default_hooks"]
    assert after == before
    cfg = config(optim_wrapper=several)
    additions.complete(cfg, gpu=True)
    assert cfg.optim_wrapper == several


def test_a_config_without_data_or_optimizer():
    cfg = Config(dict(model=dict(type="EncoderDecoder", backbone=dict(type=OURS))))
    additions.complete(cfg, gpu=True)
    assert cfg.model.type == "EncoderDecoder"  # without a default scope it is nobody's
    assert "optim_wrapper" not in cfg
    assert "train_dataloader" not in cfg
    stock = Config(dict(model=dict(type="SomethingElse")))
    additions.complete(stock, gpu=True)
    assert set(stock.default_hooks) == set(additions.GUARDS)


def test_pose():
    model = dict(type="TopdownPoseEstimator", backbone=dict(type=OURS))
    cfg = config(model=model, default_scope="mmpose", test_evaluator=[dict(type="CocoMetric")])
    additions.complete(cfg, gpu=True)
    assert cfg.model.type == "mmseg_tome.TopdownPoseEstimator"
    assert cfg.test_evaluator == [dict(type="CocoMetric")]


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
def test_classes_in_place_of_names():
    """As mmengine's configs in pure Python have them."""
    from mmseg.evaluation import IoUMetric
    from mmseg.models import EncoderDecoder

    from mmseg_tome.models import MixVisionTransformer

    model = dict(type=EncoderDecoder, backbone=dict(type=MixVisionTransformer))
    cfg = config(model=model, test_evaluator=dict(type=IoUMetric))
    additions.complete(cfg, gpu=True)
    assert cfg.model.type == "mmseg_tome.EncoderDecoder"
    assert cfg.test_evaluator.type == "mmseg_tome.IoUMetric"


def test_options_without_a_type_are_those_of_our_hook():
    cfg = config()
    cfg.merge_from_dict({"default_hooks.fast_inference.dtype": "bfloat16"})
    additions.complete(cfg, gpu=False)
    assert cfg.default_hooks.fast_inference == dict(
        type="mmseg_tome.FastInferenceHook", dtype="bfloat16"
    )


@pytest.mark.parametrize("inherited", [False, True])
def test_a_hook_among_custom_hooks_is_the_only_one(inherited):
    mine = dict(type="mmseg_tome.FastInferenceHook", enabled=True, dtype="bfloat16")
    cfg = config(custom_hooks=[dict(type="EMAHook"), mine])
    if inherited:
        cfg.default_hooks.fast_inference = dict(type="mmseg_tome.FastInferenceHook")
    additions.complete(cfg, gpu=False)
    assert "fast_inference" not in cfg.default_hooks
    assert additions.find_hook(cfg, "fast_inference") == mine
    assert additions.find_hook(cfg, "fast_training") == dict(type="mmseg_tome.FastTrainingHook")


def test_none_stands_for_no_hook():
    cfg = config(default_hooks=dict(auto_merging=None))
    additions.complete(cfg, gpu=False)
    assert "auto_merging" not in cfg.default_hooks
    assert "fast_inference" in cfg.default_hooks


@pytest.mark.parametrize("name", [*additions.GUARDS, *additions.HOOKS])
def test_the_hooks_can_be_built(name):
    HOOKS.build(dict({**additions.GUARDS, **additions.HOOKS}[name]))
