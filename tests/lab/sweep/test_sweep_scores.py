"""A sweep's scores are those of the metrics, whatever is counted once and cached."""

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")


from mmseg_tome.errors import UserError
from mmseg_tome.evaluation import (
    BoundaryIoUMetric,
    GroupedIoUMetric,
    SizeBandIoUMetric,
)
from mmseg_tome.evaluation.maps import count_values
from mmseg_tome.lab.sweep.scores import ScoreOptions, Scorer

CLASSES = ("Road", "Pole", "Car", "Sky")
VOID, FOREIGN = 255, 9
OPTIONS = ScoreOptions(thin=("Pole",), bands=(12, 60), boundary_ratio=0.03)


def blocks(generator, values):
    """A label of random blocks, `[36, 48]`: regions of many sizes, some diagonal neighbours."""
    coarse = generator.choice(values, size=(12, 16))
    return np.kron(coarse, np.ones((3, 3), int)).astype(np.uint16)


@pytest.fixture(scope="module")
def maps():
    """Labels with void pixels and a label that is no class, and predictions; the sky is new in
    the last, where it is predicted alone."""
    generator = np.random.default_rng(0)
    labels = [blocks(generator, [0, 1, 2, 3, VOID, FOREIGN]) for _ in range(2)]
    labels.append(blocks(generator, [0, 1, VOID]))
    noise = [generator.integers(0, 4, label.shape) for label in labels]
    wrong = [generator.random(label.shape) < 0.3 for label in labels]
    predictions = [
        np.where(w | (label >= 4), n, label).astype(np.uint8)
        for label, n, w in zip(labels, noise, wrong, strict=True)
    ]
    return labels, predictions


def by_metrics(labels, predictions):
    """The same scores by the metrics' own `process`."""
    metrics = (
        GroupedIoUMetric(groups={"thin": ["Pole"]}),
        SizeBandIoUMetric({"small": (0, 12), "medium": (12, 60), "large": (60, None)}),
        BoundaryIoUMetric(0.03),
    )
    samples = [
        dict(
            pred_sem_seg=dict(data=torch.from_numpy(prediction.astype(int))[None]),
            gt_sem_seg=dict(data=torch.from_numpy(label.astype(int))[None]),
        )
        for label, prediction in zip(labels, predictions, strict=True)
    ]
    scores = {}
    for metric in metrics:
        metric.dataset_meta = {"classes": CLASSES}
        metric.process({}, samples)
        scores.update(metric.compute_metrics(metric.results))
    return scores


def test_scores_are_those_of_the_metrics(maps):
    # mmseg's own metric counts a label that is no class as part of no union; so must its sample.
    labels, predictions = maps
    labels = [np.where(label == FOREIGN, VOID, label).astype(np.uint16) for label in labels]
    scores = Scorer(labels, CLASSES, OPTIONS).score(predictions)
    expected = by_metrics(labels, predictions)
    assert {"mIoU", "IoU.Pole", "mIoU.thin", "mIoU.small", "recall.large", "boundary_mIoU"} <= set(
        scores
    )
    for name, score in scores.items():
        assert score == pytest.approx(expected[name], abs=0.011), name
    assert 20 < scores["mIoU"] < 95  # neither all right nor all wrong, which would agree anyhow


def test_sizes_and_boundaries_allow_for_labels_that_are_no_class(maps):
    labels, predictions = maps
    scores = Scorer(labels, CLASSES, OPTIONS).score(predictions)
    expected = by_metrics(labels, predictions)
    for name in ("mIoU.small", "mIoU.medium", "recall.medium", "boundary_mIoU"):
        assert scores[name] == pytest.approx(expected[name], abs=0.011), name


def test_agreement_is_the_share_of_equal_pixels(maps):
    labels, predictions = maps
    scorer = Scorer(labels, CLASSES, OPTIONS)
    others = [prediction.copy() for prediction in predictions]
    others[0][:9] = (others[0][:9] + 1) % 4  # a quarter of one of three images
    assert scorer.score(others, predictions)["agreement"] == pytest.approx(100 * 11 / 12, abs=0.01)
    assert scorer.score(predictions, predictions)["agreement"] == 100
    assert "agreement" not in scorer.score(predictions)


def test_a_scorer_can_be_used_again(maps):
    labels, predictions = maps
    scorer = Scorer(labels, CLASSES, OPTIONS)
    first = scorer.score(predictions)
    scorer.score([np.zeros_like(prediction) for prediction in predictions])
    assert scorer.score(predictions) == first


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_count_values(dtype):
    generator = np.random.default_rng(0)
    values = generator.integers(0, 7, (20, 30)).astype(dtype)
    where = generator.random(values.shape) < 0.5
    found = count_values(values, where, 5)
    assert found.tolist() == [np.count_nonzero(values[where] == v) for v in range(5)]


def test_default_options_follow_the_data_set():
    options = ScoreOptions().of(["Road", "pole", "Pedestrian"], (360, 480))
    assert options.bands == (24**2, 72**2)
    assert sorted(options.thin) == ["Pedestrian", "pole"]
    assert ScoreOptions().of(["Road"], (480, 640)).bands == (32**2, 96**2)
    with pytest.raises(UserError, match="no class 'Tram'; its classes: Road"):
        ScoreOptions(thin=("Tram",)).of(["Road"], (360, 480))
