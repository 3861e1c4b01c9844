"""A training run of mmengine's own Runner on a tiny model."""

from itertools import count

import pytest
import torch
from torch import nn

NUMBER = count()


@pytest.fixture
def on_cpu(monkeypatch):
    """Runners that mmengine builds run on the CPU, where a GPU is, too."""
    monkeypatch.setattr("mmengine.device.utils.DEVICE", "cpu")


@pytest.fixture
def tiny_model():
    """A class of models with every kind of parameter that `paramwise_cfg` tells apart."""
    from mmengine.model import BaseModel

    class Tiny(BaseModel):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)) for _ in range(3)
            )
            self.head = nn.Linear(4, 2)

        def forward(self, inputs, mode="loss"):
            x = self.norm(self.stem(torch.stack(inputs)).relu())
            x = self.depthwise(x).mean((2, 3))
            for block in self.blocks:
                x = x + block(x)
            return dict(loss=self.head(x).square().mean())

    return Tiny


@pytest.fixture
def train(tiny_model, tmp_path):
    """`train(constructor, optimizer, schedulers, ...)` -> the Runner after six iterations."""
    from mmengine.runner import Runner

    images = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def train(
        constructor, optimizer, schedulers, paramwise=None, wrapper="OptimWrapper", **options
    ) -> Runner:
        torch.manual_seed(0)
        number = next(NUMBER)
        runner = Runner(
            tiny_model(),
            work_dir=str(tmp_path / str(number)),
            experiment_name=f"tiny{number}",
            train_dataloader=dict(
                dataset=[dict(inputs=image) for image in images],
                sampler=dict(type="InfiniteSampler", shuffle=False),
                batch_size=4,
            ),
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=6),
            optim_wrapper=dict(
                type=wrapper, constructor=constructor, optimizer=optimizer, paramwise_cfg=paramwise
            ),
            param_scheduler=schedulers,
            default_hooks=dict(
                checkpoint=dict(
                    type="CheckpointHook",
                    by_epoch=False,
                    interval=3,
                    save_optimizer=options.pop("save_optimizer", True),
                )
            ),
            custom_hooks=[dict(type="mmseg_tome.CheckpointGuardHook")],
            **options,
        )
        runner.train()
        return runner

    return train
