"""Who is taken to read full logits."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip

if not compat.has("mmseg"):
    pytest.skip("needs mmseg", allow_module_level=True)

from mmengine.evaluator import BaseMetric, DumpResults, Evaluator
from mmengine.hooks import Hook, IterTimerHook, LoggerHook, PrepareTTAHook
from mmengine.runner import loops
from mmseg.engine import SegVisualizationHook
from mmseg.evaluation import IoUMetric
from mmseg.evaluation.metrics import CityscapesMetric, DepthMetric
from mmseg.models import SegTTAModel
from mmseg.visualization import SegLocalVisualizer

from mmseg_tome import evaluation
from mmseg_tome.hooks.fast import wants_logits


class Model(torch.nn.Module):
    def test_step(self, data):
        return []


class OfSomebody(BaseMetric):
    def process(self, data_batch, data_samples):
        pass

    def compute_metrics(self, results):
        return {}


class ReadsMore(IoUMetric):
    def process(self, data_batch, data_samples):
        pass


class ReadsMoreThanOurs(evaluation.GroupedIoUMetric):
    def process(self, data_batch, data_samples):
        pass


class ScoresOtherwise(IoUMetric):
    def compute_metrics(self, results):
        return {}


class Promises(OfSomebody):
    reads_labels_only = True

    def process(self, data_batch, data_samples):
        pass


class LooksAtResults(Hook):
    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        pass


class LooksAtEverything(Hook):
    def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode="train"):
        pass


class LooksAtTraining(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        pass


class Painter(SegLocalVisualizer):
    pass


class Loop(loops.TestLoop):
    pass


def loop_of(*metrics, kind=loops.TestLoop, evaluator=Evaluator):
    loop = object.__new__(kind)
    loop.evaluator = evaluator(list(metrics))
    return loop


def runner_of(*metrics, hooks=(), **kwargs):
    defaults = dict(
        model=Model(),
        hooks=[IterTimerHook(), LoggerHook(), *hooks],
        visualizer=SegLocalVisualizer(),
        _val_loop=None,
        _test_loop=loop_of(*metrics),
    )
    return SimpleNamespace(**(defaults | kwargs))


@pytest.mark.parametrize(
    "metric",
    [
        IoUMetric(),
        evaluation.IoUMetric(),
        evaluation.GroupedIoUMetric(),
        evaluation.BoundaryIoUMetric(),
        evaluation.SizeBandIoUMetric(),
        ScoresOtherwise(),
        Promises(),
    ],
    ids=lambda metric: type(metric).__name__,
)
def test_metrics_that_labels_suffice_for(metric):
    assert wants_logits(runner_of(metric)) is None
    assert wants_logits(runner_of(IoUMetric(), metric, OfSomebody())) == "OfSomebody"


@pytest.mark.parametrize(
    "build",
    [
        evaluation.AgreementMetric,
        DepthMetric,
        lambda: DumpResults("x.pkl"),
        OfSomebody,
        ReadsMore,
        ReadsMoreThanOurs,
    ],
)
def test_metrics_that_may_read_logits(build):
    metric = build()
    assert wants_logits(runner_of(IoUMetric(), metric)) == type(metric).__name__


def test_mmsegs_metric_for_cityscapes():
    metric = object.__new__(CityscapesMetric)  # its constructor needs cityscapesScripts
    metric.keep_results = True
    assert wants_logits(runner_of(metric)) is None


def test_hooks():
    assert wants_logits(runner_of(hooks=[LooksAtTraining()])) is None
    assert wants_logits(runner_of(hooks=[LooksAtResults()])) == "LooksAtResults"
    assert wants_logits(runner_of(hooks=[LooksAtEverything()])) == "LooksAtEverything"
    assert wants_logits(runner_of(hooks=[PrepareTTAHook({})])) == "PrepareTTAHook"


def test_a_visualizer_of_ones_own_counts_where_it_draws():
    for draw, expected in ((True, "Painter"), (False, None)):
        hook = object.__new__(SegVisualizationHook)  # its constructor needs a global visualizer
        hook.draw = draw
        assert wants_logits(runner_of(hooks=[hook], visualizer=Painter())) == expected
        assert wants_logits(runner_of(hooks=[hook])) is None


def test_test_time_augmentation_averages_logits():
    assert wants_logits(runner_of(model=SegTTAModel(module=Model()))) == "SegTTAModel"


def test_loops_and_evaluators():
    class Mine(Evaluator):
        pass

    assert wants_logits(runner_of(_test_loop=loop_of(kind=Loop))) == "Loop"
    assert wants_logits(runner_of(_test_loop=loop_of(evaluator=Mine))) == "Mine"
    # A loop that is still a config is not about to run.
    assert wants_logits(runner_of(_test_loop=dict(type="TestLoop"))) is None
    validation = loop_of(OfSomebody(), kind=loops.ValLoop)
    assert wants_logits(runner_of(_val_loop=validation, _test_loop=None)) == "OfSomebody"
