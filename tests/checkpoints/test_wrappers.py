"""What training tools wrap around parameters is taken off, wherever a checkpoint is read."""

import collections

import pytest
import torch
from torch import nn

from mmseg_tome.checkpoints.fitting import holding
from mmseg_tome.checkpoints.reading import find_state
from mmseg_tome.checkpoints.wrappers import (
    find_parameters,
    fitting_names,
    plain_names,
    unwrap,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.decode_head = nn.Linear(3, 1)


STATE = Net().state_dict()


def prefixed(prefix: str) -> dict:
    return {f"{prefix}{key}": value for key, value in STATE.items()}


def compiled_inside() -> dict:
    return {key.replace("backbone.", "backbone._orig_mod."): v for key, v in STATE.items()}


def averaged() -> dict:
    net = Net()
    net.load_state_dict(STATE)
    return torch.optim.swa_utils.AveragedModel(net).state_dict()


def beside_averages() -> dict:
    """As the EMA hook of mmcv 0.x and 1.x registers them."""
    return {**STATE, **{f"ema_{key.replace('.', '_')}": value for key, value in STATE.items()}}


LIGHTNING = {"pytorch-lightning_version": "2.5", "epoch": 3, "hyper_parameters": {}}
WRAPPED = {
    "bare": STATE,
    "mm": dict(state_dict=STATE, optimizer={}),
    "compiled": prefixed("_orig_mod."),
    "compiled, parallel": prefixed("module._orig_mod."),
    "parallel, compiled": prefixed("_orig_mod.module."),
    "compiled inside": compiled_inside(),
    "sharded": prefixed("_fsdp_wrapped_module."),
    "lightning": dict(LIGHTNING, state_dict=prefixed("model.")),
    "lightning, compiled": dict(LIGHTNING, state_dict=prefixed("model._orig_mod.")),
    "lightning, a loss": dict(
        LIGHTNING, state_dict={**prefixed("model."), "loss.weight": torch.ones(3)}
    ),
    "model": dict(model=STATE, epoch=1),
    "model_state_dict": dict(model_state_dict=prefixed("module."), epoch=1, loss=torch.ones(())),
    "model in model": dict(model=dict(state_dict=prefixed("net."))),
    "deepspeed": dict(module=STATE, ds_config={}),
    "averaged alone": averaged(),
    "averaged by mmengine": dict(ema_state_dict={**prefixed("module."), "steps": torch.ones(())}),
    "averaged by timm": dict(state_dict_ema=STATE, arch="b0"),
    "averaged beside": dict(state_dict=STATE, ema_state_dict=averaged()),
    "averages in buffers": dict(state_dict=beside_averages(), epoch=1),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers(name):
    for found in (
        find_state(WRAPPED[name], "file"),
        find_state(unwrap(WRAPPED[name]), "file"),
        fitting_names(find_parameters(unwrap(WRAPPED[name])), Net().state_dict()),
    ):
        assert set(STATE) <= set(found) <= set(beside_averages())
        assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def test_mmengines_own_checkpoints_are_left_alone():
    own = dict(meta=dict(epoch=1), state_dict=prefixed("model."), optimizer={})
    assert unwrap(own) is own


@pytest.mark.parametrize("other", [None, 3, [], {}, dict(a=1), dict(model=3), torch.ones(1)])
def test_what_holds_no_parameters(other):
    assert unwrap(other) is other
    assert find_parameters(other) is None


def test_plain_names_keep_the_state_and_its_metadata():
    state = collections.OrderedDict(STATE)
    assert plain_names(state) is state
    assert fitting_names(state, STATE) is state


def test_names_that_would_become_one_stay():
    state = {"_orig_mod.a": torch.ones(1), "a": torch.ones(1)}
    assert plain_names(state) is state


def test_a_model_may_be_called_model_itself():
    wrapped = nn.ModuleDict(dict(model=Net()))
    for state in (STATE, prefixed("model."), prefixed("module.model.")):
        wrapped.load_state_dict(fitting_names(state, wrapped.state_dict()))


def test_a_model_may_be_compiled_in_part():
    wanted = compiled_inside()
    assert fitting_names(STATE, wanted).keys() == wanted.keys()
    assert fitting_names(compiled_inside(), wanted).keys() == wanted.keys()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("segformer.encoder.patch_embeddings.0.proj.weight", "Hugging Face transformers: python"),
        ("module.backbone.patch_embed1.proj.weight", "tools/convert_checkpoint.py a.pth"),
        ("layers.0.0.projection.weight", "type='Pretrained', checkpoint='a.pth')"),
        ("backbone.layers.0.0.projection.weight", "checkpoint='a.pth', prefix='backbone.')"),
    ],
)
def test_what_a_file_holds(key, message):
    assert message in holding({key: torch.ones(1)}, "a.pth")


def test_nothing_is_said_of_what_is_not_known():
    whole = ("backbone.layers.0.0.projection.weight", "decode_head.conv_seg.weight")
    assert holding({key: torch.ones(1) for key in whole}, "a.pth") == ""
    assert holding({"conv1.weight": torch.ones(1)}, "a.pth") == ""
