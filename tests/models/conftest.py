import pytest

from mmseg_tome.models import MixVisionTransformer

TINY = dict(embed_dims=8, num_layers=[2, 2, 3, 2], num_heads=[1, 2, 5, 8], sr_ratios=[8, 4, 2, 1])


@pytest.fixture
def tiny():
    """Build the backbone of the golden outputs, with any further arguments."""

    def build(**kwargs) -> MixVisionTransformer:
        model = MixVisionTransformer(**TINY, **kwargs)
        model.init_weights()
        return model.eval()

    return build
