"""What merging saves: each stage is timed by itself, and a plan's time is predicted as their sum.

A stage takes milliseconds of a network's tens: measured alone, a few calls tell what in the whole
network drowns in noise. Every choice is timed in turns with its stage unmerged and kept as a ratio,
so that times of a busy machine, or of an earlier run, add up.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, MutableMapping

import torch
from torch import Tensor, nn

from mmseg_tome.lab.bench import measure
from mmseg_tome.lab.sweep.settings import NONE
from mmseg_tome.lab.sweep.timing import with_setting
from mmseg_tome.nets.segformer import image_channels
from mmseg_tome.runtime.graphs import CudaGraphs, Graphed
from mmseg_tome.runtime.precision import DTYPES, to_half

from .space import Choice, Plan, Space, setting

ROUNDS = 7
MIN_SAMPLE_S = 0.02
"""Calls are repeated until a sample takes this long."""


class StageTimes:
    """Predicts times of plans from times of stages, each of which is measured once.

    Args:
        model: The segmentor, in eval mode; is moved to the device and cast.
        space: What can merge.
        hw: Size of the images.
        batch: Images at a time.
        device: Where it runs.
        dtype: "float32", "bfloat16" or "float16".
        known: Keeps what was measured: milliseconds, and of choices ratios, by name.
        rounds: How often each is timed; `ROUNDS` if None.
        launch: "eager", or by CUDA graphs where there is a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        space: Space,
        hw: tuple[int, int],
        batch: int,
        device: torch.device,
        dtype: str,
        known: MutableMapping[str, float],
        rounds: int | None = None,
        launch: str = "auto",
    ) -> None:
        self.space, self.hw, self.batch = space, hw, batch
        self.device, self.dtype, self.rounds = device, dtype, rounds or ROUNDS
        self.known = known
        self.launch = launch
        self.model = model
        measure.make_current(device)
        model.to(device)
        if dtype in DTYPES:
            for part in (model.backbone, model.decode_head):
                to_half(part, DTYPES[dtype])
        if "ms whole" not in known:
            self._measure_unmerged()

    def predict(self, plan: Plan) -> float:
        """Milliseconds per image that a plan should take; times what is not timed yet."""
        saved = sum(self.stage_ms(i) * (1 - self.ratio(i, choice)) for i, choice in enumerate(plan))
        return self.known["ms whole"] - saved

    def speedup(self, plan: Plan) -> float:
        """Predicted speed-up over no merging."""
        return self.known["ms whole"] / self.predict(plan)

    def stage_ms(self, stage: int) -> float:
        """Milliseconds per image of a stage's blocks without merging."""
        return self.known[f"ms {stage + 1}"]

    def ratio(self, stage: int, choice: Choice) -> float:
        """Time of a stage under a choice over its time without merging."""
        if choice == Choice():
            return 1.0
        self.measure(stage, [choice])
        return self.known[_key(stage, choice)]

    def measure(self, stage: int, choices: Iterable[Choice]) -> None:
        """Time those of these choices that were not timed yet, in turns."""
        missing = [choice for choice in choices if _key(stage, choice) not in self.known]
        missing = [choice for choice in missing if choice != Choice()]
        if not missing:
            return
        plain, *merged = self._sample([self._stage(stage, c) for c in (Choice(), *missing)])
        for choice, samples in zip(missing, merged, strict=True):
            self.known[_key(stage, choice)] = _median_ratio(samples, plain)

    def _measure_unmerged(self) -> None:
        """Time the whole network and each stage in turns, all of them without merging."""
        stages = range(len(self.space.ways))
        plain = [self._stage(i, Choice()) for i in stages]
        whole, *parts = self._sample([self._whole(), *plain])
        ms = statistics.median(whole) / self.batch
        for i in stages:
            self.known[f"ms {i + 1}"] = ms * _median_ratio(parts[i], whole)
        self.known["ms whole"] = ms  # last: with it, the others are there

    def _sample(self, runs: list[tuple[Callable, Tensor]]) -> list[list[float]]:
        # Only one graph runs at a time: all share their memory.
        uses = [] if self.launch == "eager" else ["inference"]
        options = dict(uses=uses, patience=0, capture=CudaGraphs())
        forwards = [_forward(Graphed(self.model, run, **options), x) for run, x in runs]
        for forward in forwards:
            forward()  # captures; index maps are cached
        return measure.time_in_turns(forwards, self.rounds, self.device, MIN_SAMPLE_S)

    def _whole(self) -> tuple[Callable, Tensor]:
        """The network without merging and its input."""
        network = with_setting(self.model, NONE)
        x = self._random(image_channels(network), *self.hw)
        return lambda x: network.decode_head(network.backbone(x)), x

    def _stage(self, stage: int, choice: Choice) -> tuple[Callable, Tensor]:
        """The blocks of a stage under a choice and their input."""
        plan = list(self.space.plain)
        plan[stage] = choice
        backbone = with_setting(self.model, setting(tuple(plan))).backbone
        blocks = backbone.layers[stage][1]
        hw, _ = backbone.grids(self.hw)[stage]
        channels = backbone.embed_dims * backbone.num_heads[stage]
        x = self._random(hw[0] * hw[1], channels)
        return lambda x: backbone._run_blocks(stage, blocks, x, hw), x

    def _random(self, *shape: int) -> Tensor:
        x = torch.randn(self.batch, *shape, generator=torch.Generator().manual_seed(0))
        return x.to(self.device, DTYPES.get(self.dtype, torch.float32))


def _forward(run: Callable, x: Tensor) -> measure.Forward:
    @torch.inference_mode()
    def forward():
        return run(x)

    return forward


def _median_ratio(samples: list[float], base: list[float]) -> float:
    """Of samples of the same round: what slows a machine for a while slows both."""
    return statistics.median(a / b for a, b in zip(samples, base, strict=True))


def _key(stage: int, choice: Choice) -> str:
    return f"ratio {stage + 1}: {choice}"
