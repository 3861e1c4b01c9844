import pytest
import torch
from torch.export import Dim

from mmseg_tome.export.tracing import portable
from mmseg_tome.huggingface import apply_merging, remove_merging
from mmseg_tome.huggingface.attention import unmerge_weights
from mmseg_tome.merging import BipartiteMatching, NeighbourMerging2D, SlotMap

BOTH = dict(mode="bsm", ratio=0.5, stride=(2, 2))
EVERY = [dict(q=BOTH, kv=BOTH, reuse=2)] * 4
PROPORTIONAL = [stage | dict(proportional=True) for stage in EVERY]
EXACT = dict(rtol=1e-9, atol=1e-9)

pytestmark = pytest.mark.usefixtures("one_thread")


def attentions_of(model):
    return [m for m in model.modules() if type(m).__name__ == "SegformerAttention"]


@pytest.mark.parametrize("tome_cfg", [None, EVERY, PROPORTIONAL])
@torch.no_grad()
def test_attention_weights_come_between_all_tokens_and_change_no_output(tiny, tome_cfg):
    model, images = apply_merging(tiny(), tome_cfg), torch.randn(2, 3, 97, 70).double()
    fused = model(images, output_hidden_states=True)
    unfused = model(images, output_hidden_states=True, output_attentions=True)
    assert not fused.attentions
    for one, other in zip(fused.hidden_states, unfused.hidden_states, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    # 97x70 pixels: grids of 25x18, 13x9, 7x5, 4x3, of which keys are 8, 4, 2, 1 times fewer a side.
    shapes = [(1, 450, 6)] * 2 + [(2, 117, 6)] * 2 + [(5, 35, 6)] * 3 + [(8, 12, 12)] * 2
    assert [tuple(weights.shape) for weights in unfused.attentions] == [(2, *s) for s in shapes]
    for weights in unfused.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]).double())


@torch.no_grad()
def test_weights_without_merging_are_those_of_transformers(tiny):
    model, images = tiny(attn_implementation="eager"), torch.randn(1, 3, 64, 96).double()
    plain = model(images, output_attentions=True).attentions
    merged = apply_merging(model, None)(images, output_attentions=True).attentions
    for one, other in zip(merged, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # theirs can be float32's


def test_unmerged_weights_give_the_unmerged_output():
    q_slots = BipartiteMatching(0.6, (2, 2))(torch.randn(2, 48, 5), (6, 8))
    kv_slots = NeighbourMerging2D((2, 2))(torch.randn(2, 15, 5), (3, 5))
    values = torch.randn(2, 3, 15, 4)
    merged_values = torch.stack([kv_slots.merge(v) for v in values.unbind(1)], 1)
    weights = torch.rand(2, 3, q_slots.num_slots, kv_slots.num_slots).softmax(-1)
    expected = [q_slots.unmerge(out) for out in (weights @ merged_values).unbind(1)]
    unmerged = unmerge_weights(weights, q_slots, kv_slots)
    torch.testing.assert_close(unmerged @ values, torch.stack(expected, 1))


def test_attention_dropout_acts_in_training_alone(tiny):
    model, images = tiny(attention_probs_dropout_prob=0.5), torch.randn(1, 3, 64, 64).double()
    apply_merging(model, "n2d")

    def out(seed, **kwargs):
        torch.manual_seed(seed)
        with torch.no_grad():
            return model(images, **kwargs).last_hidden_state

    assert torch.equal(out(0), out(1))
    model.train()
    assert torch.equal(out(0), out(0))
    assert not torch.allclose(out(0), out(1))
    assert not torch.allclose(out(0, output_attentions=True), out(1, output_attentions=True))


@torch.no_grad()
def test_layers_that_others_put_in_place_are_called(tiny):
    """As adapters and quantisation do."""
    model, images = apply_merging(tiny(), "fast"), torch.randn(1, 3, 64, 64).double()
    expected = model(images).last_hidden_state
    calls = []
    linears = [
        (parent, name, child)
        for attention in attentions_of(model)
        for parent in attention.modules()
        for name, child in parent.named_children()
        if isinstance(child, torch.nn.Linear)
    ]
    for parent, name, child in linears:
        wrapped = torch.nn.Sequential(child)
        wrapped.register_forward_hook(lambda *_: calls.append(1))
        setattr(parent, name, wrapped)
    assert torch.equal(model(images).last_hidden_state, expected)
    assert len(calls) == len(linears) == 4 * 9


def test_a_mask_is_refused(tiny):
    attention = attentions_of(apply_merging(tiny(), "fast"))[0]
    with pytest.raises(ValueError, match="no attention_mask"):
        attention(torch.randn(1, 64, 8).double(), 8, 8, attention_mask=torch.ones(1))


@torch.no_grad()
def test_an_attention_called_alone_finds_slot_maps_of_its_own(tiny):
    model, x = apply_merging(tiny(), EVERY), torch.randn(2, 64, 8).double()
    first, second = attentions_of(model)[:2]
    second.load_state_dict(first.state_dict())
    outs = [attention(x, 8, 8)[0] for attention in (first, second)]
    assert torch.equal(*outs)


def count_matching(monkeypatch):
    calls = []
    match = BipartiteMatching.__call__
    monkeypatch.setattr(
        BipartiteMatching, "__call__", lambda *args: calls.append(1) or match(*args)
    )
    return calls


@pytest.mark.parametrize(("reuse", "blocks"), [(1, 9), (2, 5), (3, 4)])
@torch.no_grad()
def test_every_kth_block_of_a_stage_matches(tiny, monkeypatch, reuse, blocks):
    calls = count_matching(monkeypatch)
    apply_merging(tiny(), [dict(q=BOTH, reuse=reuse)] * 4)(torch.randn(1, 3, 64, 64).double())
    assert len(calls) == blocks  # of 2, 2, 3 and 2


@torch.no_grad()
def test_earlier_versions_compute_the_same(tiny, earlier, monkeypatch):
    model, images = tiny(), torch.randn(2, 3, 97, 70).double()
    before = earlier(model)
    plain, _ = before(images)
    for tome_cfg in (None, "hq", "fast-turbo", PROPORTIONAL, EVERY):
        apply_merging(model, tome_cfg), apply_merging(before, tome_cfg)
        expected = model(images, output_hidden_states=True, output_attentions=True)
        for wanted in (False, True):
            maps, weights = before(images, output_attentions=wanted)
            for one, other in zip(maps, expected.hidden_states, strict=True):
                torch.testing.assert_close(one, other, **EXACT)
        for one, other in zip(weights, expected.attentions, strict=True):
            torch.testing.assert_close(one, other, **EXACT)
    calls = count_matching(monkeypatch)
    before(images)
    assert len(calls) == 10  # queries and keys of 5 blocks
    for one, other in zip(remove_merging(before)(images)[0], plain, strict=True):
        assert torch.equal(one, other)


def test_earlier_versions_drop_weights_and_outputs_in_training(tiny, earlier):
    for dropout in ("attention_probs_dropout_prob", "hidden_dropout_prob"):
        model = apply_merging(earlier(tiny(**{dropout: 0.5})), "n2d").train()
        attention, x = attentions_of(model)[0], torch.randn(1, 64, 8).double()
        assert not torch.allclose(attention(x, 8, 8)[0], attention(x, 8, 8)[0])
        attention.eval()
        assert torch.equal(attention(x, 8, 8)[0], attention(x, 8, 8)[0])


def test_one_map_for_all_samples_spreads_weights_too():
    slots = SlotMap(torch.tensor([[0, 0, 1]]), 2)
    weights = torch.tensor([0.5, 0.5]).expand(2, 1, 2, 2)
    spread = unmerge_weights(weights, slots, slots)
    assert torch.equal(spread, torch.tensor([0.25, 0.25, 0.5]).expand(2, 1, 3, 3))


class WithWeights(torch.nn.Module):
    """An attention on a map, `[B, C, H, W]`, and the attention weights that it gives."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        height, width = x.shape[2:]
        return self.attention(x.flatten(2).mT, height, width, output_attentions=True)


@torch.no_grad()
def test_weights_are_exported_for_any_size(tiny):
    """No tracer knows how many slots `local` leaves: to compare the number ends the export."""
    mode = dict(mode="local", ratio=0.6)
    attention = attentions_of(apply_merging(tiny(), [dict(q=mode, kv=mode)] * 4))[2]
    model, images = WithWeights(attention), torch.randn(1, 16, 35, 51).double()
    sides = {2: Dim("H", min=16, max=999), 3: Dim("W", min=16, max=999)}
    with portable(any_size=True):
        program = torch.export.export(model, (images,), dynamic_shapes=dict(x=sides), strict=False)
    for hw in ((35, 51), (40, 16), (16, 64)):
        images = torch.randn(1, 16, *hw).double()
        for got, expected in zip(program.module()(images), model(images), strict=True):
            torch.testing.assert_close(got, expected, **EXACT)
