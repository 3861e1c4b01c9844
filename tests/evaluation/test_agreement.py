import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")


def logits(*probabilities) -> torch.Tensor:
    """Logits `[classes, 1, pixels]` of pixels with these class probabilities."""
    return torch.tensor(probabilities).log().T[:, None]


def compare(metric, *pairs) -> dict:
    """Evaluate pairs of merged and unmerged logits."""
    for merged, unmerged in pairs:
        metric.reference = lambda batch, given=unmerged: [
            SimpleNamespace(
                seg_logits=SimpleNamespace(data=given),
                pred_sem_seg=SimpleNamespace(data=given.argmax(0, keepdim=True)),
            )
        ]
        sample = dict(seg_logits=dict(data=merged), pred_sem_seg=dict(data=merged.argmax(0)[None]))
        metric.process({}, [sample])
    return metric.evaluate(len(pairs))


@pytest.fixture
def agreement(build):
    return lambda **kwargs: build("AgreementMetric", **kwargs)


def test_equal_predictions(agreement):
    x = torch.randn(4, 5, 6)
    assert compare(agreement(), (x, x.clone())) == {
        "agreement.pixels": 100.0, "agreement.mIoU": 100.0, "agreement.KL": 0.0
    }  # fmt: skip


def test_hand_computed(agreement):
    unmerged = logits([0.5, 0.25, 0.125, 0.125], [0.5, 0.2, 0.2, 0.1], [0.1, 0.7, 0.1, 0.1])
    merged = logits([0.5, 0.25, 0.125, 0.125], [0.2, 0.5, 0.2, 0.1], [0.1, 0.7, 0.1, 0.1])
    metrics = compare(agreement(per_class=True), (merged, unmerged))
    assert metrics["agreement.pixels"] == 66.67
    assert metrics["agreement.IoU.road"] == 50.0  # 1 / (2 + 1 - 1)
    assert metrics["agreement.IoU.pole"] == 50.0  # 1 / (1 + 2 - 1)
    assert metrics["agreement.mIoU"] == 50.0  # nobody predicts the others
    assert "agreement.IoU.sky" not in metrics
    divergence = 0.5 * math.log(0.5 / 0.2) + 0.2 * math.log(0.2 / 0.5)
    assert metrics["agreement.KL"] == pytest.approx(divergence / 3, abs=1e-6)


def test_the_unmerged_one_is_the_truth(agreement):
    sure, unsure = logits([0.9, 0.1]), logits([0.6, 0.4])
    names = ("a", "b")
    forth = compare(agreement(names=names), (unsure, sure))["agreement.KL"]
    back = compare(agreement(names=names), (sure, unsure))["agreement.KL"]
    assert forth == pytest.approx(0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4), abs=1e-6)
    assert back == pytest.approx(0.6 * math.log(0.6 / 0.9) + 0.4 * math.log(0.4 / 0.1), abs=1e-6)


def test_images_add_up_before_they_divide(agreement):
    small, large = torch.randn(2, 4, 3, 4), torch.randn(2, 4, 150, 2)  # more rows than are at once
    metrics = compare(agreement(), tuple(small), tuple(large))
    log_p, log_q = (
        torch.cat([a.flatten(1), b.flatten(1)], 1).double().log_softmax(0)
        for a, b in ((small[1], large[1]), (small[0], large[0]))
    )
    divergence = (log_p.exp() * (log_p - log_q)).sum(0).mean().item()
    assert metrics["agreement.KL"] == pytest.approx(divergence, abs=2e-6)
    same = (log_p.argmax(0) == log_q.argmax(0)).double().mean().item()
    assert metrics["agreement.pixels"] == pytest.approx(100 * same, abs=0.006)


def test_half_precision_and_binary_models():
    from mmseg_tome.evaluation.agreement import kl_divergence

    x, y = torch.randn(2, 4, 5, 6)
    exact = kl_divergence(x, y)
    assert kl_divergence(x.bfloat16(), y.bfloat16()) == pytest.approx(exact, rel=0.05)
    # mmseg hands on the probability of class 1.
    p, q = torch.tensor([[[0.9, 0.0]]]), torch.tensor([[[0.6, 0.0]]])
    expected = 0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4)
    assert kl_divergence(p, q) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("names", [("crack",), ("background", "crack")])
def test_a_single_channel_is_compared_by_what_it_says(agreement, names):
    """Of the one class that a data set may name, 1 is it and 0 the rest."""
    metric = agreement(names=names, per_class=True)
    merged, unmerged = torch.tensor([[[1.0, 1, 0, 0]]]), torch.tensor([[[1.0, 0, 0, 1]]])
    metric.reference = lambda batch: [
        SimpleNamespace(
            seg_logits=SimpleNamespace(data=unmerged * 0.8 + 0.1),
            pred_sem_seg=SimpleNamespace(data=unmerged),
        )
    ]
    data = dict(seg_logits=dict(data=merged * 0.8 + 0.1), pred_sem_seg=dict(data=merged))
    metric.process({}, [data])
    scores = metric.evaluate(1)
    assert scores["agreement.pixels"] == 50.0
    assert scores["agreement.IoU.crack"] == scores["agreement.IoU.background"] == 33.33
    assert scores["agreement.KL"] > 0


def test_without_the_hook_it_says_what_is_missing(agreement):
    from mmseg_tome.errors import UserError

    with pytest.raises(UserError, match=r"add dict\(type='mmseg_tome\.UnmergedReferenceHook'\)"):
        agreement().process({}, [])
