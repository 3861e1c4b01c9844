import copy
import pickle

import pytest
import torch

from mmseg_tome.huggingface import apply_merging, remove_merging
from mmseg_tome.huggingface.mixing import Mixin, check_untouched, mix_in, take_out


class Louder(Mixin):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.fixture
def linear():
    linear = torch.nn.Linear(3, 3)
    mix_in(linear, Louder)
    return linear


def test_a_mixed_module_is_still_what_it_was(linear):
    assert isinstance(linear, torch.nn.Linear)
    assert type(linear).__name__ == "Linear"
    assert repr(linear) == "Linear(in_features=3, out_features=3, bias=True)"
    x = torch.randn(2, 3)
    assert torch.equal(linear(x), 2 * torch.nn.functional.linear(x, linear.weight, linear.bias))
    take_out(linear)
    assert type(linear) is torch.nn.Linear


def test_a_class_that_was_exchanged_once_more_is_refused(linear):
    check_untouched(linear)
    linear.__class__ = type("Sharded", (type(linear),), {})  # as FSDP does
    with pytest.raises(TypeError, match="changed the forward of a Sharded"):
        check_untouched(linear)


@pytest.mark.parametrize(
    "again", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_and_pickles_are_mixed_too(tiny, again):
    model = apply_merging(tiny(), "fast-turbo")  # before a run: transformers hooks do not pickle
    other, images = again(model), torch.randn(1, 3, 64, 64).double()
    with torch.no_grad():
        assert torch.equal(other(images)[0], model(images)[0])
    if again is not copy.copy:  # which shares its parts
        remove_merging(other)
        assert "BipartiteMatching" not in repr(other)
        assert "BipartiteMatching" in repr(model)
