import copy
import functools

import pytest
import torch
from torch import nn

from mmseg_tome.huggingface import apply_merging, remove_merging
from mmseg_tome.merging import TomeConfigError
from mmseg_tome.models import MixVisionTransformer

PRESETS = [None, "hq", "fast", "n2d", "hq-turbo", "fast-turbo", "hq-prop"]
BOTH = dict(mode="bsm", ratio=0.5, stride=(2, 2))
EVERY = [dict(q=BOTH, kv=BOTH, reuse=2)] * 4
PROPORTIONAL = [stage | dict(proportional=True) for stage in EVERY]
EXACT = dict(rtol=1e-9, atol=1e-9)
MODELS = ["SegformerModel", "SegformerForSemanticSegmentation", "SegformerForImageClassification"]

pytestmark = pytest.mark.usefixtures("one_thread")


def features(model, images):
    return model(images, output_hidden_states=True).hidden_states


def output(model, images):
    result = model(images)
    return result.logits if "logits" in result else result.last_hidden_state


def image(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


@pytest.fixture
def ours(as_ours):
    """Our backbone with the weights of a `SegformerModel`."""

    def build(model, tome_cfg):
        backbone = MixVisionTransformer(
            embed_dims=8,
            num_layers=(2, 2, 3, 2),
            num_heads=(1, 2, 5, 8),
            norm_cfg=dict(type="LN", eps=1e-5),
            tome_cfg=tome_cfg,
        )
        backbone.load_state_dict(as_ours(model.state_dict()))
        return backbone.to(next(model.parameters()).dtype).train(model.training)

    return build


@pytest.mark.parametrize("tome_cfg", [*PRESETS, EVERY, PROPORTIONAL])
@pytest.mark.parametrize("size", [(96, 128), (97, 71)])
@torch.no_grad()
def test_features_equal_our_backbone(tiny, ours, tome_cfg, size):
    model, images = tiny(), image(2, 3, *size)
    backbone = ours(model, tome_cfg)
    apply_merging(model, tome_cfg)
    for theirs, expected in zip(features(model, images), backbone(images), strict=True):
        torch.testing.assert_close(theirs, expected, **EXACT)


@pytest.mark.parametrize("tome_cfg", [*PRESETS, EVERY, PROPORTIONAL])
def test_gradients_in_training_equal_our_backbones(tiny, ours, as_ours, tome_cfg):
    model, images = tiny().train(), image(2, 3, 97, 71)
    backbone = ours(model, tome_cfg)
    apply_merging(model, tome_cfg)
    for outs in (features(model, images), backbone(images)):
        sum(out.square().mean() for out in outs).backward()
    theirs = as_ours({name: p.grad for name, p in model.named_parameters()})
    expected = {name: p.grad for name, p in backbone.named_parameters()}
    assert theirs.keys() == expected.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(gradient, expected[name], **EXACT)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_model_merges_in_place_and_back_with_its_state_dict_unchanged(tiny, name):
    model, images = tiny(name), image(2, 3, 70, 64)
    plain, state = output(model, images), copy.deepcopy(model.state_dict())
    assert apply_merging(model, None) is model
    torch.testing.assert_close(output(model, images), plain, **EXACT)
    apply_merging(model, "n2d")
    merged = output(model, images)
    assert merged.shape == plain.shape
    assert not torch.allclose(merged, plain)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state.pop(key))
    assert not state
    apply_merging(model, "fast")  # takes the place of n2d
    apply_merging(model, "n2d")
    assert torch.equal(output(model, images), merged)
    assert remove_merging(remove_merging(model)) is model
    assert torch.equal(output(model, images), plain)


def test_saved_and_loaded_the_model_is_plain_with_the_same_weights(tiny, tmp_path):
    model, images = tiny(MODELS[1], dtype=torch.float32), image(1, 3, 64, 64, dtype=torch.float32)
    with torch.no_grad():
        plain = output(model, images)
        apply_merging(model, "fast").save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path).eval()
        assert torch.equal(output(loaded, images), plain)
        merged = output(apply_merging(loaded, "fast"), images)
        assert torch.equal(merged, output(model, images))


@torch.no_grad()
def test_float32_and_autocast_run(tiny):
    model, images = tiny(MODELS[1], dtype=torch.float32), image(1, 3, 64, 96, dtype=torch.float32)
    merged = output(apply_merging(model, "n2d"), images)
    assert merged.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = output(model, images)
    torch.testing.assert_close(lower.float(), merged, rtol=0.2, atol=0.2 * merged.std().item())


def test_a_compiler_and_an_exporter_see_one_graph(tiny):
    model = apply_merging(tiny(MODELS[1], depths=[1, 1, 2, 1]), "hq-turbo")
    images = image(1, 3, 64, 96)
    with torch.no_grad():
        expected = output(model, images)  # the first run lets transformers set its hooks
        compiled = torch.compile(model, backend="eager", fullgraph=True)(images).logits
        torch.testing.assert_close(compiled, expected, **EXACT)
        exported = torch.export.export(model, (images,), strict=False).module()(images).logits
        torch.testing.assert_close(exported, expected, **EXACT)
    torch.compiler.reset()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gradients_are_of_their_own_pass(tiny, reentrant):
    """Between a pass and its gradient another one runs, whose slot maps must not be taken."""
    model = tiny().train()
    if not model.supports_gradient_checkpointing:
        pytest.skip("this version of transformers has no gradient checkpointing for SegFormer")
    apply_merging(model, EVERY)
    first, second = image(1, 3, 64, 96), image(1, 3, 96, 64)

    def gradients():
        model.zero_grad()
        loss = model(first).last_hidden_state.square().mean()
        with torch.no_grad():
            model(second)
        loss.backward()
        return [p.grad for p in model.parameters()]

    expected = gradients()
    model.gradient_checkpointing_enable(dict(use_reentrant=reentrant))
    for gradient, kept in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(gradient, kept, **EXACT)


def test_what_is_no_segformer_is_refused(tiny):
    import transformers

    other_model = nn.Sequential(nn.Linear(3, 3))
    for other in (other_model, "nvidia/mit-b0", transformers.SegformerModel, None):
        with pytest.raises(TypeError, match=r"SegformerModel, SegformerForSemanticSegmentation or"):
            apply_merging(other, "fast")
    assert remove_merging(other_model) is other_model
    with pytest.raises(
        TypeError, match=r"from a torch\.nn\.Module or a pipeline, got 'nvidia/mit-b0'"
    ):
        remove_merging("nvidia/mit-b0")


@pytest.mark.parametrize(
    ("tome_cfg", "message"),
    [
        ("quick", "unknown preset 'quick'.*allowed: fast, .*n2d"),
        ([dict()] * 3, "3 entries, the backbone has 4 stages"),
        ([dict(q=dict(mode="soft"))] + [dict()] * 3, "stage 1, q: unknown mode 'soft'; allowed"),
        (3, "a preset's name or a list with one dict per stage, got int"),
        ("hq-auto", "give the preset or the list itself"),
        (dict(auto=EVERY), "give the preset or the list itself"),
    ],
)
def test_a_wrong_setting_is_named_and_changes_nothing(tiny, tome_cfg, message):
    model, images = apply_merging(tiny(), "n2d"), image(1, 3, 64, 64)
    with torch.no_grad():
        before = output(model, images)
        with pytest.raises(TomeConfigError, match=message):
            apply_merging(model, tome_cfg)
        assert torch.equal(output(model, images), before)


def test_presets_are_for_four_stages(tiny):
    model = tiny(
        num_encoder_blocks=2,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_attention_heads=[1, 2],
        sr_ratios=[4, 2],
        patch_sizes=[7, 3],
        strides=[4, 2],
        mlp_ratios=[4, 4],
    )
    with pytest.raises(TomeConfigError, match="4 entries, the backbone has 2 stages"):
        apply_merging(model, "fast")
    with torch.no_grad():
        assert output(apply_merging(model, EVERY[:2]), image(1, 3, 64, 64)).shape[1] == 16


def test_a_forward_that_something_else_replaced_is_left_alone(tiny):
    model, images = tiny(), image(1, 3, 64, 64)
    attention = next(m for m in model.modules() if type(m).__name__ == "SegformerAttention")
    attention.forward = functools.partial(attention.forward)
    with pytest.raises(TypeError, match="changed the forward of a SegformerAttention"):
        apply_merging(model, "fast")
    del attention.forward
    apply_merging(model, "fast")
    attention.forward = functools.partial(attention.forward)
    with pytest.raises(TypeError, match="changed the forward of a SegformerAttention"):
        remove_merging(model)
    with torch.no_grad():
        assert output(model, images).isfinite().all()


def test_a_pipeline_merges_as_its_model_does(tiny):
    transformers = pytest.importorskip("transformers")

    class Logits(transformers.Pipeline):
        """As those of transformers, which need torchvision to read images."""

        def _sanitize_parameters(self, **_):
            return {}, {}, {}

        def preprocess(self, image):
            return dict(pixel_values=image)

        def _forward(self, inputs):
            return self.model(**inputs)

        def postprocess(self, outputs):
            return outputs.logits

    model = tiny("SegformerForSemanticSegmentation")
    expected = apply_merging(copy.deepcopy(model), "fast")
    pipeline = Logits(model=model, image_processor=object(), device="cpu")
    assert apply_merging(pipeline, "fast") is pipeline
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        unmerged = remove_merging(copy.deepcopy(model))(images).logits
        assert torch.equal(pipeline(images), expected(images).logits)
        assert not torch.equal(pipeline(images), unmerged)
        assert remove_merging(pipeline) is pipeline
        assert torch.equal(pipeline(images), unmerged)


def test_what_holds_no_module_is_no_pipeline():
    class Holder:
        model = "a name"

    for change in (lambda: apply_merging(Holder(), "fast"), lambda: remove_merging(Holder())):
        with pytest.raises(TypeError, match="Holder"):
            change()
