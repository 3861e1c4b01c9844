import pytest
from torch import nn

from mmseg_tome.visualization.selection import Selection, merging_stages, words

pytest.importorskip("mmengine")


@pytest.fixture
def backbone():
    from mmseg_tome.models import MixVisionTransformer

    tome_cfg = [dict(), dict(kv=dict(mode="n2d")), dict(q=dict(mode="n2d")), dict()]
    return MixVisionTransformer(
        embed_dims=8, num_layers=(1, 2, 3, 1), num_heads=(1, 2, 4, 4), tome_cfg=tome_cfg
    )


def test_blocks_are_counted_from_1_or_from_an_end():
    assert [Selection(block).block_of(5) for block in ("first", "last", 1, 3, 5)] == [0, 4, 0, 2, 4]
    assert [Selection(stages=[1, 3]).wants(stage) for stage in range(4)] == [True, False] * 2
    assert Selection().wants(3)


def test_the_stages_that_merge(backbone):
    assert merging_stages(backbone) == [2, 3]


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection("first", [1, 2]),
        Selection(2),
        Selection(3, [3, 4]),
        Selection(9, [1]),
    ],
)
def test_what_is_there_is_taken(backbone, selection):
    selection.check(backbone)  # a block need not be in stages that do not merge


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(stages=[0, 5, 2]), "no stage 0 and 5, only 1 to 4"),
        (Selection(3), "no block 3 in stage 2, choose first, last or 1 to 2"),
        (Selection(0), "no block 0 in stage 2"),
        (Selection("middle"), "no block middle in stage 2"),
    ],
)
def test_what_is_not_there_is_named(backbone, selection, message):
    with pytest.raises(ValueError, match=message):
        selection.check(backbone)


def test_other_backbones_are_refused():
    with pytest.raises(ValueError, match=r"Linear merges no tokens .*MixVisionTransformer"):
        Selection().check(nn.Linear(1, 1))


def test_words():
    assert [words([1]), words([1, 2]), words([1, 2, 4])] == ["1", "1 and 2", "1, 2 and 4"]
