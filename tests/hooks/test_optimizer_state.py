"""Resuming between mmengine's parameter groups and ours."""

import copy
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("mmengine")

from mmengine.optim import OptimWrapper, build_optim_wrapper

from mmseg_tome.errors import CheckpointError
from mmseg_tome.hooks.optimizer import adapt_optimizer_state

pytestmark = pytest.mark.usefixtures("on_cpu")

STOCK = "DefaultOptimWrapperConstructor"
OURS = "mmseg_tome.GroupedOptimWrapperConstructor"
ADAMW = dict(type="AdamW", lr=1e-2, weight_decay=0.01)
SGD = dict(type="SGD", lr=1e-2, momentum=0.9, weight_decay=0.01)
PARAMWISE = dict(
    custom_keys={"norm": dict(decay_mult=0.0), "head": dict(lr_mult=10.0)}, bias_lr_mult=2.0
)
SCHEDULES = dict(
    poly=[
        dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=2),
        dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=2, end=8),
    ],
    one_cycle=dict(type="OneCycleLR", eta_max=0.02, total_steps=8, by_epoch=False),
    # Starts anew from its `base_values` after the iteration that is resumed.
    restarts=dict(
        type="CosineRestartLR", periods=[4, 8], restart_weights=[1, 0.5], eta_min=0, by_epoch=False
    ),
)


def build(model, constructor=OURS, optimizer=ADAMW, paramwise=PARAMWISE):
    return build_optim_wrapper(
        model,
        dict(
            type="OptimWrapper",
            constructor=constructor,
            optimizer=optimizer,
            paramwise_cfg=paramwise,
        ),
    )


def trained(model, constructor=STOCK, optimizer=ADAMW, paramwise=PARAMWISE) -> dict:
    """The checkpoint of an optimizer after a step, with a loss scaler's state in it."""
    wrapper = build(model, constructor, optimizer, paramwise)
    wrapper.update_params(model([torch.randn(3, 8, 8)] * 2)["loss"])
    return dict(optimizer=dict(wrapper.state_dict(), loss_scaler=dict(scale=65536.0)))


def moments(wrapper, model) -> dict:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        (names[id(parameter)], key): value
        for parameter, state in wrapper.optimizer.state.items()
        for key, value in state.items()
    }


@pytest.mark.parametrize(
    ("before", "after", "optimizer", "schedule"),
    [
        (STOCK, OURS, ADAMW, "poly"),
        (STOCK, OURS, SGD, "poly"),
        (STOCK, OURS, ADAMW, "one_cycle"),
        (STOCK, OURS, ADAMW, "restarts"),
        (OURS, OURS, ADAMW, "restarts"),
        (OURS, STOCK, ADAMW, "restarts"),
    ],
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    train, before, after, optimizer, schedule, monkeypatch
):
    if schedule == "one_cycle":  # its state is a function of mmengine's besides numbers
        monkeypatch.setenv("MMSEG_TOME_TRUST_CHECKPOINT", "1")

    def run(constructor, **options):
        options["auto_scale_lr"] = dict(enable=True, base_batch_size=8)
        return train(constructor, optimizer, SCHEDULES[schedule], PARAMWISE, **options)

    whole = run(STOCK)
    first = run(before)
    resumed = run(after, load_from=f"{first.work_dir}/iter_3.pth", resume=True)
    assert resumed.iter == 6
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict())
    torch.testing.assert_close(
        moments(resumed.optim_wrapper, resumed.model), moments(whole.optim_wrapper, whole.model)
    )


@pytest.mark.parametrize("before", [STOCK, OURS])
def test_without_the_optimizers_state_schedulers_find_their_groups(train, before):
    schedule = SCHEDULES["restarts"]
    first = train(before, SGD, schedule, PARAMWISE, save_optimizer=False)
    file = f"{first.work_dir}/iter_3.pth"
    resumed = train(OURS, SGD, schedule, PARAMWISE, load_from=file, resume=True)
    (scheduler,) = resumed.param_schedulers
    groups = resumed.optim_wrapper.param_groups
    assert scheduler.base_values == [group["initial_lr"] for group in groups]


def test_moments_and_options_follow_their_parameters(tiny_model):
    model = tiny_model()
    checkpoint = trained(model)
    stock = build(model, STOCK)
    stock.load_state_dict(copy.deepcopy(checkpoint["optimizer"]))
    ours = build(model)
    adapt_optimizer_state(checkpoint, ours)
    assert checkpoint["optimizer"]["loss_scaler"] == dict(scale=65536.0)
    ours.load_state_dict(checkpoint["optimizer"])
    torch.testing.assert_close(moments(ours, model), moments(stock, model), rtol=0, atol=0)


def test_how_a_step_is_computed_is_never_resumed(tiny_model):
    """torch would resume, for the fused kernel of a GPU, the plain one of the file, and fail."""
    model = tiny_model()
    for before in (STOCK, OURS):
        checkpoint = trained(model, before)
        wrapper = build(model, optimizer=dict(ADAMW, foreach=True))
        adapt_optimizer_state(checkpoint, wrapper)
        assert all(group["foreach"] for group in checkpoint["optimizer"]["param_groups"])


def test_another_grouping_of_ours_is_converted(tiny_model):
    model = tiny_model()
    checkpoint = trained(model, OURS)
    finer = dict(PARAMWISE, custom_keys=dict(PARAMWISE["custom_keys"], **{"0.1.weight": {}}))
    wrapper = build(model, paramwise=finer)
    before = build(model)
    before.load_state_dict(copy.deepcopy(checkpoint["optimizer"]))
    assert len(wrapper.optimizer.param_groups) > len(before.optimizer.param_groups)
    adapt_optimizer_state(checkpoint, wrapper)
    wrapper.load_state_dict(checkpoint["optimizer"])
    torch.testing.assert_close(moments(wrapper, model), moments(before, model), rtol=0, atol=0)


def test_other_parameters(tiny_model):
    model = tiny_model()
    checkpoint = trained(model)
    model.stem.requires_grad_(False)
    with pytest.raises(CheckpointError, match="its optimizer trains 20 parameters, this one 18"):
        adapt_optimizer_state(checkpoint, build(model))


def test_other_shapes(tiny_model):
    model = tiny_model()
    checkpoint = trained(model)
    checkpoint["optimizer"]["state"][0]["exp_avg"] = torch.ones(7)
    with pytest.raises(CheckpointError, match=r"exp_avg of shape \(7,\) for a parameter of shape"):
        adapt_optimizer_state(checkpoint, build(model))


def test_other_options(tiny_model):
    model = tiny_model()
    checkpoint = trained(model, paramwise=dict(norm_decay_mult=0.0))
    message = "weight_decay=(0.0|0.01) and weight_decay=(0.0|0.01) for parameters to which"
    with pytest.raises(CheckpointError, match=message):
        adapt_optimizer_state(checkpoint, build(model, paramwise=dict(bias_lr_mult=1.0)))
    checkpoint = trained(model, paramwise=None)
    with pytest.raises(CheckpointError, match=r"has decay_mult=None for parameters .* gives 0\.0"):
        adapt_optimizer_state(checkpoint, build(model))


@pytest.mark.parametrize(
    ("paramwise", "message"),
    [
        (dict(norm_decay_mult=0.0), "one weight_decay for .* config gives 0.01 and 0.0"),
        (dict(bias_lr_mult=2.0), "one lr for parameters to which the config gives 0.01 and 0.02"),
    ],
)
def test_options_that_the_file_does_not_tell_apart(tiny_model, paramwise, message):
    """They have no multiplier of their own, and would go on with the options of the file."""
    model = tiny_model()
    checkpoint = trained(model, paramwise=None)
    with pytest.raises(CheckpointError, match=message):
        adapt_optimizer_state(checkpoint, build(model, paramwise=paramwise))


def test_the_runner_says_which_file_and_why(train):
    first = train(STOCK, ADAMW, SCHEDULES["poly"], dict(norm_decay_mult=0.0))
    file = f"{first.work_dir}/iter_3.pth"
    with pytest.raises(CheckpointError, match=r"iter_3.pth cannot be resumed: its optimizer has"):
        train(OURS, ADAMW, SCHEDULES["poly"], dict(bias_lr_mult=1.0), load_from=file, resume=True)


def test_what_has_no_state_of_one_optimizer_is_left_alone(tiny_model):
    wrapper = build(tiny_model())
    for optimizer in (None, dict(generator=dict(), critic=dict())):
        checkpoint = dict(state_dict={}) if optimizer is None else dict(optimizer=optimizer)
        expected = copy.deepcopy(checkpoint)
        adapt_optimizer_state(checkpoint, wrapper)
        assert checkpoint == expected
    checkpoint = dict(optimizer=dict(param_groups=[]))
    adapt_optimizer_state(checkpoint, SimpleNamespace())  # not built yet
    assert checkpoint == dict(optimizer=dict(param_groups=[]))


def test_a_run_without_a_loss_scale_goes_on_with_one():
    wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1))
    checkpoint = dict(optimizer=dict(wrapper.state_dict(), loss_scaler={}))
    adapt_optimizer_state(checkpoint, wrapper)
    assert "loss_scaler" not in checkpoint["optimizer"]
