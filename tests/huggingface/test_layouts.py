import pytest
from torch import nn

from mmseg_tome.huggingface.attention import FlatAttention, NestedAttention
from mmseg_tome.huggingface.layouts import find_encoders, layout_of


def test_stages_of_every_layout_are_found(tiny, earlier):
    for layout, model in ((FlatAttention, tiny()), (NestedAttention, earlier(tiny()))):
        (stages,) = find_encoders(nn.ModuleList([model]))
        assert [len(stage.attentions) for stage in stages] == [2, 2, 3, 2]
        for stage in stages:
            assert set(stage.attentions) < set(stage.runner.modules())
            assert {layout_of(attention) for attention in stage.attentions} == {layout}


def test_two_encoders_are_two(tiny):
    assert len(find_encoders(nn.ModuleList([tiny(), tiny()]))) == 2


def test_an_unknown_build_is_named(tiny):
    model = tiny()
    attention = find_encoders(model)[0][0].attentions[0]
    for child in [name for name, _ in attention.named_children()]:
        delattr(attention, child)
    with pytest.raises(TypeError, match=r"SegformerAttention are not those .* transformers 4\.30"):
        layout_of(attention)

    class SegformerModel(nn.Module):
        pass

    with pytest.raises(TypeError, match="SegformerModel has no stages"):
        find_encoders(SegformerModel())
