"""Parameter groups: every parameter's options are mmengine's, and so is training."""

import logging
import random

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine")

from mmengine import Config
from mmengine.optim import DefaultOptimWrapperConstructor, build_optim_wrapper

from mmseg_tome.hooks.optimizer import GroupedOptimWrapperConstructor, fused_on_gpu

STOCK = "DefaultOptimWrapperConstructor"
OURS = "mmseg_tome.GroupedOptimWrapperConstructor"
ADAMW = dict(type="AdamW", lr=1e-2, betas=(0.9, 0.999), weight_decay=0.01)
SGD = dict(type="SGD", lr=1e-2, momentum=0.9, weight_decay=0.01)
SCHEDULES = dict(
    poly=[
        dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=2),
        dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=2, end=8),
    ],
    steps=dict(type="MultiStepLR", milestones=[2, 4], gamma=0.1, by_epoch=False),
    one_cycle=dict(type="OneCycleLR", eta_max=0.02, total_steps=8, by_epoch=False),
    restarts=dict(
        type="CosineRestartLR", periods=[2, 8], restart_weights=[1, 0.5], eta_min=0, by_epoch=False
    ),
)
PARAMWISE = dict(
    custom_keys={
        "norm": dict(decay_mult=0.0),
        "head": dict(lr_mult=10.0),
        "blocks.1": dict(decay_mult=0.0, eps=1e-6),
    },
    bias_lr_mult=2.0,
    dwconv_decay_mult=0.5,
)


def build(constructor, model, optimizer=ADAMW, paramwise=None, **wrapper):
    return build_optim_wrapper(
        model,
        dict(
            type="OptimWrapper",
            constructor=constructor,
            optimizer=optimizer,
            paramwise_cfg=paramwise,
        )
        | wrapper,
    )


def options(wrapper, model) -> dict:
    """The options of every parameter, by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: {
            k: v for k, v in group.items() if k not in ("params", "places", "fused", "foreach")
        }
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }


def assert_same_options(model, optimizer=ADAMW, paramwise=None):
    stock = build(STOCK, model, optimizer, paramwise)
    ours = build(OURS, model, optimizer, paramwise)
    assert options(ours, model) == options(stock, model)
    return ours.optimizer.param_groups, stock.optimizer.param_groups


def share_weights(model):
    model.again = nn.Linear(4, 2)
    model.again.weight = model.head.weight


def test_groups_keep_the_order_of_their_first_parameters(tiny_model):
    model = tiny_model()
    ours, stock = assert_same_options(model, paramwise=PARAMWISE)
    assert len(ours) < len(stock) == len(list(model.parameters()))
    order = [id(group["params"][0]) for group in stock]
    first = [order.index(id(group["params"][0])) for group in ours]
    assert first == sorted(first)
    for group in ours:
        assert [order.index(id(parameter)) for parameter in group["params"]] == group["places"]
        assert group["places"] == sorted(group["places"])


@pytest.mark.parametrize("seed", range(30))
def test_random_options(tiny_model, seed):
    draw = random.Random(seed)
    names = ("stem", "norm", "blocks", "blocks.1", "0.weight", "bias", "head", "absent")
    paramwise = {
        f"{kind}_mult": draw.choice((0.0, 0.5, 1.0, 3.0))
        for kind in ("bias_lr", "bias_decay", "norm_decay", "flat_decay", "dwconv_decay")
        if draw.random() < 0.4
    }
    if draw.random() < 0.7:
        paramwise["custom_keys"] = {
            name: {
                key: draw.choice((0.0, 1.0, 10.0))
                for key in ("lr_mult", "decay_mult")
                if draw.random() < 0.6
            }
            for name in draw.sample(names, draw.randrange(1, 5))
        }
    if draw.random() < 0.5:
        paramwise["bypass_duplicate"] = True
    model = tiny_model()
    if paramwise.get("bypass_duplicate"):
        share_weights(model)
    for parameter in model.stem.parameters():
        parameter.requires_grad = draw.random() < 0.7
    assert_same_options(model, draw.choice((ADAMW, SGD)), paramwise)


def test_shared_parameters_are_refused_as_by_mmengine(tiny_model):
    model = tiny_model()
    share_weights(model)
    for constructor in (STOCK, OURS):
        with pytest.raises(ValueError, match="more than one parameter group"):
            build(constructor, model, paramwise=PARAMWISE)


def test_without_options_there_is_one_group(tiny_model):
    ours, stock = assert_same_options(tiny_model())
    assert len(ours) == len(stock) == 1


def test_a_constructor_builds_any_number_of_optimizers_also_of_wrapped_models(tiny_model):
    constructor = GroupedOptimWrapperConstructor(dict(optimizer=ADAMW), PARAMWISE)
    for _ in range(2):
        wrapped = nn.Module()
        wrapped.module = tiny_model()
        stock = DefaultOptimWrapperConstructor(dict(optimizer=ADAMW), PARAMWISE)(wrapped)
        ours = constructor(wrapped)
        assert options(ours, wrapped.module) == options(stock, wrapped.module)
    assert constructor.optimizer_cfg == ADAMW


def test_the_wrapper_is_the_one_of_the_config(tiny_model):
    from mmseg_tome.hooks import CPUAmpOptimWrapper

    wrapper = build(
        OURS,
        tiny_model(),
        paramwise=PARAMWISE,
        type="mmseg_tome.CPUAmpOptimWrapper",
        accumulative_counts=2,
        clip_grad=dict(max_norm=1.0),
    )
    assert isinstance(wrapper, CPUAmpOptimWrapper)
    assert wrapper.clip_grad_kwargs == dict(max_norm=1.0)


@pytest.mark.parametrize("task", ["cityscapes", "jbd"])
def test_our_configs_have_few_groups(repo, task):
    pytest.importorskip("mmseg" if task == "cityscapes" else "mmpose")
    from mmengine.registry import MODELS, DefaultScope, init_default_scope

    cfg = Config.fromfile(repo / f"configs/segformerpp_fast_{task}.py")
    cfg.model.backbone.update(embed_dims=2, init_cfg=None)
    widths = [2 * heads for heads in cfg.model.backbone.num_heads]
    head = cfg.model.get("decode_head") or cfg.model.head
    head.update(in_channels=widths)
    if task == "cityscapes":
        head.update(channels=4, norm_cfg=dict(type="BN"))
    init_default_scope(cfg.default_scope)
    try:
        model = MODELS.build(cfg.model)
    finally:
        DefaultScope._instance_dict.clear()
    wrapper = cfg.optim_wrapper
    ours, stock = assert_same_options(model, wrapper.optimizer, wrapper.get("paramwise_cfg"))
    assert sum(len(group["params"]) for group in ours) > 950
    assert len(ours) <= 12
    assert len(stock) in (1, len(list(model.parameters())))


def test_one_line_is_logged_for_all(tiny_model, caplog):
    from mmengine.logging import MMLogger

    model = tiny_model()
    model.stem.weight.requires_grad = False
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        build(OURS, model, paramwise=dict(custom_keys={"head": dict(lr_mult=10.0)}))
    logger.removeHandler(caplog.handler)
    (record,) = caplog.records
    assert record.getMessage() == (
        "AdamW of 19 parameters in 2 groups: 17 (lr 0.01, weight decay 0.01), "
        "2 (lr 0.1, weight decay 0.01); 1 frozen"
    )
    assert not any(getattr(f, "__name__", "") == "nothing" for f in logger.filters)


class OnGPU(nn.Module):
    """A model whose parameters say that they are on a GPU."""

    class Parameter:
        requires_grad = is_cuda = True
        floating = True

        def is_floating_point(self):
            return self.floating

    def __init__(self, *others):
        super().__init__()
        self.others = others

    def parameters(self, recurse=True):
        return [self.Parameter(), *self.others]


@pytest.mark.parametrize("kind", ["Adam", "AdamW", torch.optim.AdamW])
def test_a_gpu_takes_the_fused_kernel(kind):
    cfg = dict(type=kind, lr=1e-3)
    assert fused_on_gpu(cfg, OnGPU()) == dict(cfg, fused=True)
    assert cfg == dict(type=kind, lr=1e-3)
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    assert fused_on_gpu(cfg, OnGPU(frozen))["fused"]


@pytest.mark.parametrize(
    "cfg",
    [
        dict(type="SGD", lr=1e-3),
        dict(type="AdamW", fused=False),
        dict(type="AdamW", foreach=True),
        dict(type="AdamW", differentiable=True),
    ],
)
def test_others_and_what_the_config_says_stay(cfg):
    assert fused_on_gpu(cfg, OnGPU()) == cfg


def test_a_cpu_takes_what_it_took(tiny_model):
    assert fused_on_gpu(ADAMW, tiny_model()) == ADAMW
    assert fused_on_gpu(ADAMW, OnGPU(nn.Parameter(torch.ones(1)))) == ADAMW
    assert fused_on_gpu(ADAMW, nn.Identity()) == ADAMW


@pytest.mark.parametrize(
    ("optimizer", "schedule"), [(ADAMW, schedule) for schedule in SCHEDULES] + [(SGD, "steps")]
)
def test_training_is_mmengines(train, optimizer, schedule):
    paramwise = PARAMWISE if optimizer is ADAMW else dict(bias_lr_mult=2.0, norm_decay_mult=0.0)
    stock, ours = (
        train(
            constructor,
            optimizer,
            SCHEDULES[schedule],
            paramwise,
            auto_scale_lr=dict(enable=True, base_batch_size=16),
        )
        for constructor in (STOCK, OURS)
    )
    assert options(ours.optim_wrapper, ours.model) == options(stock.optim_wrapper, stock.model)
    assert ours.message_hub.get_scalar("train/base_lr").data[0].tolist() == (
        stock.message_hub.get_scalar("train/base_lr").data[0].tolist()
    )
    torch.testing.assert_close(ours.model.state_dict(), stock.model.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the fused kernel needs a GPU")
def test_fused_training_on_a_gpu(train):
    stock, ours = (train(each, ADAMW, SCHEDULES["poly"], PARAMWISE) for each in (STOCK, OURS))
    assert ours.optim_wrapper.optimizer.param_groups[0]["fused"]
    states = [runner.model.state_dict() for runner in (ours, stock)]
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-4)
