"""The facade refuses what does not fit, whichever backend would run."""

import pytest
import torch

from mmseg_tome import ops
from mmseg_tome.ops import SegmentOrder


@pytest.fixture(params=["torch", "triton"])
def backend(request):
    if request.param == "triton":
        request.getfixturevalue("kernels")


@pytest.fixture
def make(device):
    def tensor(*shape):
        return torch.ones(shape, device=device)

    return tensor


def index(*shape):
    return lambda make: make(*shape).long() * 0


def of(*shape):
    return lambda make: make(*shape)


def number(value):
    return lambda make: value


def order(tokens, offsets):
    return lambda make: SegmentOrder(make(*tokens).int(), make(*offsets).int(), 12)


EPS = number(1e-6)
X = of(2, 12, 16)
VECTOR = of(16)
AFFINE = (VECTOR, VECTOR, EPS)
WINDOWS = number(ops.Windows((4, 8), (4, 4), (2, 2)))
CASES = {
    "weight of a layer norm": (ops.layer_norm, X, of(8), VECTOR, EPS),
    "weight of one channel": (ops.layer_norm, X, of(1), VECTOR, EPS),
    "bias of a layer norm": (ops.layer_norm, X, VECTOR, of(8), EPS),
    "shift": (ops.layer_norm, X, VECTOR, VECTOR, EPS, number(None), of(8)),
    "tokens as a map": (ops.layer_norm, of(2, 3, 4, 16), VECTOR, VECTOR, EPS),
    "weight of a sum": (ops.add_layer_norm, X, X, number(None), of(8), VECTOR, EPS),
    "bias of a sum": (ops.add_layer_norm, X, X, number(None), VECTOR, of(32), EPS),
    "update of one channel": (ops.add_layer_norm, X, of(2, 12, 1), number(None), *AFFINE),
    "rows of other channels": (ops.add_layer_norm, X, of(2, 5, 8), index(1, 12), *AFFINE),
    "rows of one sample": (ops.add_layer_norm, X, of(1, 5, 16), index(1, 12), *AFFINE),
    "depthwise weight": (ops.depthwise_gelu, X, of(8, 1, 3, 3), VECTOR, number((3, 4))),
    "depthwise weight of 5x5": (ops.depthwise_gelu, X, of(16, 1, 5, 5), VECTOR, number((3, 4))),
    "depthwise bias": (ops.depthwise_gelu, X, of(16, 1, 3, 3), of(8), number((3, 4))),
    "depthwise grid": (ops.depthwise_gelu, X, of(16, 1, 3, 3), VECTOR, number((4, 4))),
    "map of other tokens": (ops.segment_mean, X, index(2, 11), number(5)),
    "map of another batch": (ops.segment_mean, X, index(3, 12), number(5)),
    "order of other slots": (ops.segment_mean, X, index(1, 12), number(5), order((1, 12), (1, 9))),
    "order of other tokens": (ops.segment_mean, X, index(1, 12), number(5), order((1, 9), (1, 6))),
    "order of a gather": (ops.gather_segments, of(2, 5, 16), index(1, 12), order((1, 12), (1, 9))),
    "gather of another batch": (ops.gather_segments, of(2, 5, 16), index(3, 12)),
    "residual of one channel": (ops.gather_segments_add, of(2, 5, 16), index(1, 12), of(2, 12, 1)),
    "residual of more channels": (ops.gather_segments_add, of(2, 5, 8), index(1, 12), X),
    "rows of one sample for two": (ops.gather_segments_add, of(1, 5, 16), index(1, 12), X),
    "no destination": (ops.match, X, index(12), index(0)),
    "metric of one sample": (ops.match, of(12, 16), index(9), index(3)),
    "similarities": (
        ops.assign_ordered, of(2, 8), index(2, 8), number(3), index(9), index(3), number(12),
    ),
    "nearest": (
        ops.assign_ordered, of(2, 9), index(1, 9), number(3), index(9), index(3), number(12),
    ),
    "tokens": (
        ops.assign_ordered, of(2, 9), index(2, 9), number(3), index(9), index(3), number(13),
    ),
    "values of other keys": (ops.attend, of(2, 2, 5, 8), of(2, 2, 4, 8), of(2, 2, 5, 8)),
    "keys of other channels": (ops.attend, of(2, 2, 5, 8), of(2, 2, 4, 4), of(2, 2, 4, 4)),
    "bias of each query": (ops.attend, *[of(2, 2, 5, 8)] * 3, of(2, 1, 5, 5)),
    "bias of another batch": (ops.attend, *[of(2, 2, 5, 8)] * 3, of(3, 1, 1, 5)),
    "tokens of another grid": (
        ops.window_similarity, X, number((3, 3)), number((2, 2)),
    ),
    "windows of no row": (
        ops.window_similarity, X, number((3, 4)), number((0, 2)),
    ),
    "similarities of other windows": (
        ops.assign_windows, of(2, 3), index(1, 12), number(None), number((1, 0, 0, 0)),
        number((3, 4)), number((2, 2)),
    ),
    "more windows than there are": (
        ops.assign_windows, of(2, 4), index(1, 12), number(None), number((3, 0, 0, 0)),
        number((3, 4)), number((2, 2)),
    ),
    "feature map of other channels": (
        lambda x, y: ops.add_resized(x, [y], True), of(2, 16, 4, 4), of(2, 8, 2, 2),
    ),
    "feature map of one sample": (
        lambda x, y: ops.add_resized(x, [y], True), of(2, 16, 4, 4), of(1, 16, 2, 2),
    ),
    "logits of other windows": (ops.label_map, of(4, 2, 2, 2), WINDOWS),
    "logits of no class": (ops.label_map, of(3, 0, 2, 2), WINDOWS),
    "logits of no pixel": (ops.label_map, of(3, 2, 0, 2), WINDOWS),
    "padding of all": (ops.label_map, of(3, 2, 2, 2), WINDOWS, number((4, 4, 0, 0))),
    "labels of no pixel": (
        ops.label_map, of(3, 2, 2, 2), WINDOWS, number((0, 0, 0, 0)), number((0, 5)),
    ),
}  # fmt: skip


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_refused_with_both_shapes(make, case):
    function, *arguments = CASES[case]
    with torch.no_grad(), pytest.raises(ValueError, match=r"\(.*\)|12|13") as refusal:
        function(*[build(make) for build in arguments])
    assert "\n" not in str(refusal.value)


def test_a_tensor_on_another_device_is_named():
    launching = pytest.importorskip("mmseg_tome.ops.launching")
    from mmseg_tome.ops.resizing_triton import _add_resized_kernel as kernel

    if not hasattr(kernel, "arg_names"):
        pytest.skip("Triton's interpreter has no names")
    with pytest.raises(ValueError, match=r"_add_resized_kernel runs on cuda:0, its .* x .* cpu"):
        launching.check_devices(kernel, 0, (torch.ones(1),))
