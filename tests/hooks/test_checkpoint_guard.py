import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from mmseg_tome.checkpoints.fitting import mismatch
from mmseg_tome.errors import CheckpointError
from mmseg_tome.hooks import CheckpointGuardHook


class Segmentor(nn.Module):
    def __init__(self, classes=19):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.conv_seg = nn.Conv2d(4, classes, 1)


@pytest.fixture
def runner():
    return SimpleNamespace(
        model=Segmentor(),
        _train_loop=None,
        _resume=False,
        _load_from="some.pth",
        logger=logging.getLogger("guard"),
    )


def test_a_fitting_checkpoint_passes(runner):
    state = Segmentor().state_dict()
    del state["norm.num_batches_tracked"]  # absent from old files, and unused at test time
    hook = CheckpointGuardHook()
    hook.after_load_checkpoint(runner, dict(state_dict=state))
    hook.after_load_checkpoint(runner, {f"module.{key}": value for key, value in state.items()})


def test_wrong_class_count(runner):
    with pytest.raises(
        CheckpointError, match=r"some.pth does not fit .* it has 150 classes, the model has 19"
    ):
        CheckpointGuardHook().after_load_checkpoint(runner, Segmentor(150).state_dict())


def test_other_shapes_and_missing_parameters_are_named():
    state = Segmentor().state_dict()
    state["norm.weight"] = torch.ones(5)
    assert "norm.weight is (5,), not (4,)" in mismatch(Segmentor(), state)
    del state["norm.weight"], state["conv_seg.bias"]
    assert "lacks 2 of 6 parameters: norm.weight, conv_seg.bias" in mismatch(Segmentor(), state)


def test_training_may_start_from_other_classes_but_not_resume_from_them(runner, caplog):
    runner._train_loop = object.__new__(IterBasedTrainLoop)
    state = Segmentor(150).state_dict()
    CheckpointGuardHook().after_load_checkpoint(runner, dict(state_dict=state))
    assert "it has 150 classes, the model has 19" in caplog.text
    runner._resume = True
    with pytest.raises(CheckpointError):
        CheckpointGuardHook().after_load_checkpoint(runner, dict(state_dict=state))


def test_the_config_text_of_a_checkpoint_never_reaches_the_runner(runner):
    """mmengine would execute it when resuming."""
    loaded = dict(state_dict=Segmentor().state_dict(), meta=dict(config="raise", iter=3))
    CheckpointGuardHook().after_load_checkpoint(runner, loaded)
    assert loaded["meta"] == dict(iter=3)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("container", [None, "state_dict", "model", "model_state_dict"])
def test_wrappers_are_taken_off(runner, prefix, container):
    state = {f"{prefix}{key}": value for key, value in Segmentor().state_dict().items()}
    checkpoint = state if container is None else {container: state, "epoch": 3}
    CheckpointGuardHook().after_load_checkpoint(runner, checkpoint)
    runner.model.load_state_dict(checkpoint.get("state_dict", checkpoint))


def test_a_file_of_another_layout_says_how_it_is_converted(runner):
    state = {"segformer.encoder.patch_embeddings.0.proj.weight": torch.ones(1)}
    message = r"lacks 6 of 6 .* It is one of Hugging Face .*convert_checkpoint\.py some\.pth"
    with pytest.raises(CheckpointError, match=message):
        CheckpointGuardHook().after_load_checkpoint(runner, dict(state))
    runner._train_loop = object.__new__(IterBasedTrainLoop)
    with pytest.raises(CheckpointError, match=message):  # nothing of it would be trained on
        CheckpointGuardHook().after_load_checkpoint(runner, dict(state))


def test_a_file_without_weights(runner):
    with pytest.raises(CheckpointError, match=r"no weights by name, but optimizer, epoch"):
        CheckpointGuardHook().after_load_checkpoint(runner, dict(optimizer={}, epoch=3))


class Backbone(BaseModule):
    def __init__(self):
        super().__init__(dict(type="Pretrained", checkpoint="not_there.pth"))
        self.layer = nn.Linear(2, 2)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(2, 1)

    def forward(self, inputs, mode="loss"):
        return dict(loss=self.head(self.backbone.layer(torch.stack(inputs))).sum())


@pytest.fixture
def start(tmp_path):
    """Train a model, whose backbone names a checkpoint that is not there, with a rate of 0."""

    def start(state: dict | None = None, **options) -> dict:
        if state is not None:
            torch.save(state, tmp_path / "start.pth")
            options["load_from"] = str(tmp_path / "start.pth")
        runner = Runner(
            Model(),
            work_dir=str(tmp_path),
            experiment_name=f"{tmp_path.name}_{len(list(tmp_path.iterdir()))}",
            train_dataloader=dict(
                dataset=[dict(inputs=torch.ones(2))] * 2,
                sampler=dict(type="DefaultSampler", shuffle=False),
                batch_size=1,
            ),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.0)),
            custom_hooks=[dict(type="mmseg_tome.CheckpointGuardHook")],
            **options,
        )
        return {key: value.cpu() for key, value in runner.train().state_dict().items()}

    return start


def test_pretrained_weights_that_load_from_replaces_are_not_fetched(start):
    state = {key: torch.randn_like(value) for key, value in Model().state_dict().items()}
    wrapped = {f"module.{key}": value for key, value in state.items()}
    other_head = {**state, "head.weight": torch.ones(3, 2), "head.bias": torch.ones(3)}
    for checkpoint in (state, dict(state_dict=wrapped), other_head):
        trained = start(checkpoint)
        assert torch.equal(trained["backbone.layer.weight"], state["backbone.layer.weight"])
    del state["backbone.layer.bias"]
    wide = {**state, "backbone.layer.bias": torch.ones(3)}
    for checkpoint in (None, state, wide):
        with pytest.raises(CheckpointError, match=r"^checkpoint not_there.pth does not exist"):
            start(checkpoint)


def test_nor_are_they_where_training_is_resumed(start, tmp_path):
    state = {key: torch.randn_like(value) for key, value in Model().state_dict().items()}
    start(state)
    trained = start(load_from=str(tmp_path / "epoch_1.pth"), resume=True)
    assert torch.equal(trained["backbone.layer.weight"], state["backbone.layer.weight"])
