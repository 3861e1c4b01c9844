"""What every stock backbone with merging keeps and does: Twins, PVT and ViT alike."""

import copy
import importlib
import pickle

import pytest
import torch
from torch import nn

from mmseg_tome import compat, models
from mmseg_tome.merging import TomeConfigError, parse_tome_cfg
from mmseg_tome.merging.strategies import STRATEGIES
from mmseg_tome.nets.errors import ImageSizeError
from mmseg_tome.registry import MODELS

pytestmark = pytest.mark.usefixtures("one_thread")

PYRAMID = dict(num_heads=[1, 2, 5, 8], mlp_ratios=[2, 2, 2, 2], sr_ratios=[8, 4, 2, 1])
TWINS = PYRAMID | dict(embed_dims=[8, 16, 40, 64], depths=[2, 2, 4, 2], qkv_bias=True)
PVT = PYRAMID | dict(embed_dims=8, num_layers=[1, 2, 3, 2])
# Name: whose it is, and arguments for a tiny one.
BACKBONES = dict(
    PCPVT=("mmseg", TWINS),
    SVT=("mmseg", TWINS | dict(windiow_sizes=[7, 7, 7, 7])),
    VisionTransformer=("mmseg", dict(
        img_size=(32, 48), patch_size=8, embed_dims=24, num_layers=4, num_heads=3, mlp_ratio=2,
        out_indices=(1, 3),
    )),
    PyramidVisionTransformer=("mmpose", PVT | dict(pretrain_img_size=64)),
    PyramidVisionTransformerV2=("mmpose", PVT),
)  # fmt: skip
STAGES = {name: 1 if name == "VisionTransformer" else 4 for name in BACKBONES}
SIZE = (76, 107)

BSM = dict(mode="bsm", ratio=0.5, stride=(2, 2))
SETTINGS = {
    "both": dict(q=BSM, kv=BSM),
    "proportional": dict(q=BSM, kv=BSM, proportional=True),
    "reuse": dict(q=BSM, kv=BSM, reuse=2, proportional=True),
}
LOCAL = dict(ratio=0.5, stride=(2, 2))
OPTIONS = dict(
    none={}, bsm=BSM, tome=dict(ratio=0.4), n2d=dict(stride=(2, 2)), n1d=dict(stride=3), local=LOCAL
)

each_backbone = pytest.mark.parametrize("name", BACKBONES)


def build(name, theirs=False, **kwargs):
    """One of ours, or `theirs`, the stock one of the same name."""
    package, args = BACKBONES[name]
    if not compat.has(package):
        pytest.skip(f"{name} is {package}'s")
    home = importlib.import_module(f"{package}.models.backbones") if theirs else models
    return getattr(home, name)(**args, **kwargs)


def randomise(model):
    """Weights with which attention is far from uniform."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            parameter.data[:1] *= 2
    model.eval()
    return model


def pair(name, tome_cfg=None, **kwargs):
    """Ours and the stock one, with the same weights."""
    theirs = randomise(build(name, theirs=True, **kwargs))
    ours = build(name, tome_cfg=tome_cfg, **kwargs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ours.eval()
    return ours, theirs


def run(model, image):
    with torch.inference_mode():
        return model(image)


def restate(model, name, tome_cfg, size):
    """Let a stock backbone merge, in the plainest way: merge, its own attention, unmerge."""
    settings = parse_tome_cfg(tome_cfg, STAGES[name])
    numbers = dict.fromkeys(range(STAGES[name]), 0)
    shared = {}
    for path, attention in model.named_modules():
        if isinstance(getattr(attention, "attn", None), nn.MultiheadAttention):
            stage = 0 if STAGES[name] == 1 else int(path.split(".")[1])
            how, number = settings[stage], numbers[stage]
            numbers[stage] += 1
            group = (stage, number // how.reuse)
            attention.forward = restated_attention(attention, how, group, shared, size)
    model.register_forward_pre_hook(lambda *_: shared.clear())


def restated_attention(module, how, group, shared, size):
    def forward(x, hw_shape=None, identity=None):
        before = 0 if hw_shape else 1  # ViT's class token
        hw = tuple(hw_shape or (-(-side // 8) for side in size))
        reduced, reduced_hw = x, hw
        if getattr(module, "sr_ratio", 1) > 1:
            feature_map = module.sr(x.transpose(1, 2).unflatten(2, hw))
            reduced_hw = tuple(feature_map.shape[2:])
            reduced = module.norm(feature_map.flatten(2).transpose(1, 2))
        if group not in shared:
            shared[group] = how.q(x[:, before:], hw), how.kv(reduced[:, before:], reduced_hw)
        q_slots, kv_slots = shared[group]
        q = torch.cat([x[:, :before], q_slots.merge(x[:, before:])], 1)
        kv = torch.cat([reduced[:, :before], kv_slots.merge(reduced[:, before:])], 1)
        mask = None
        if how.proportional:
            slots = kv_slots.slot.expand(len(x), -1)
            counts = [[1] * before + row.bincount().tolist() for row in slots]
            mask = torch.tensor(counts, dtype=x.dtype).log()[:, None].expand(-1, q.shape[1], -1)
            mask = mask.repeat_interleave(module.num_heads, 0)
        q, kv = q.transpose(0, 1), kv.transpose(0, 1)
        out = module.attn(q, kv, kv, attn_mask=mask)[0].transpose(0, 1)
        out = torch.cat([out[:, :before], q_slots.unmerge(out[:, before:])], 1)
        return identity + out

    return forward


def assert_same(outs, expected):
    assert len(outs) == len(expected) > 0
    for out, wanted in zip(outs, expected, strict=True):
        assert out.shape == wanted.shape
        assert (out - wanted).norm() / wanted.norm() < 1e-5


@each_backbone
@pytest.mark.parametrize("size", [(64, 64), SIZE, (97, 71)])
def test_without_merging_it_is_the_stock_backbone(name, size):
    ours, theirs = pair(name)
    image = torch.randn(2, 3, *size)
    assert_same(run(ours, image), run(theirs, image))


@each_backbone
def test_state_dict_and_initial_weights_are_the_stock_ones(name):
    states = []
    for theirs in (True, False):
        torch.manual_seed(3)
        model = build(name, theirs, **({} if theirs else dict(tome_cfg="fast")))
        model.init_weights()
        states.append(model.state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@each_backbone
@pytest.mark.parametrize("setting", SETTINGS)
def test_merging_is_its_plain_restatement(name, setting):
    tome_cfg = [SETTINGS[setting]] * STAGES[name]
    ours, theirs = pair(name, tome_cfg)
    image = torch.randn(2, 3, *SIZE)
    stock = run(theirs, image)
    restate(theirs, name, tome_cfg, SIZE)
    outs = run(ours, image)
    assert_same(outs, run(theirs, image))
    assert (outs[-1] - stock[-1]).norm() / stock[-1].norm() > 0.01


@each_backbone
@pytest.mark.parametrize("mode", STRATEGIES)
def test_every_strategy_merges_queries_and_keys(name, mode):
    tome_cfg = [{s: dict(OPTIONS[mode], mode=mode) for s in ("q", "kv")}] * STAGES[name]
    ours, theirs = pair(name, tome_cfg)
    restate(theirs, name, tome_cfg, SIZE)
    image = torch.randn(1, 3, *SIZE)
    assert_same(run(ours, image), run(theirs, image))


@each_backbone
def test_gradients_are_those_of_the_restatement(name):
    tome_cfg = [SETTINGS["reuse"]] * STAGES[name]
    ours, theirs = pair(name, tome_cfg)
    restate(theirs, name, tome_cfg, SIZE)
    image = torch.randn(1, 3, *SIZE)
    for model in (ours, theirs):
        sum(out.square().mean() for out in model(image)).backward()
    wanted = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    assert any("in_proj_weight" in key for key in wanted)
    for key, parameter in ours.named_parameters():
        if key in wanted:
            torch.testing.assert_close(parameter.grad, wanted[key], rtol=1e-3, atol=1e-5)
        else:
            assert parameter.grad is None


@each_backbone
def test_training_with_dropout_under_autocast_gives_finite_gradients(name):
    rates = dict(drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.1)
    model = build(name, tome_cfg=[SETTINGS["reuse"]] * STAGES[name], **rates)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(out.float().square().mean() for out in model(torch.randn(2, 3, 64, 64)))
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(grad.isfinite().all() for grad in gradients)


@each_backbone
@pytest.mark.parametrize("reuse", [1, 2])
def test_every_kth_block_matches(name, reuse, monkeypatch):
    model = build(name, tome_cfg=[dict(q=BSM, reuse=reuse)] * STAGES[name])
    model.eval()
    strategy, matched = type(parse_tome_cfg([dict(q=BSM)], 1)[0].q), []
    find = strategy.__call__
    monkeypatch.setattr(
        strategy, "__call__", lambda self, x, hw: matched.append(hw) or find(self, x, hw)
    )
    blocks = [len(stage.attentions) for stage in model.stages()]
    for passes in (1, 2):  # nothing is left of the first pass in the second
        run(model, torch.randn(1, 3, 64, 64))
        assert len(matched) == passes * sum(-(-n // reuse) for n in blocks)


@each_backbone
def test_tokens_kept_are_those_that_attention_gets(name):
    model = build(name, tome_cfg=[SETTINGS["both"]] * STAGES[name])
    model.eval()
    found = []
    for stage in model.stages():
        found.append({})
        for which in ("q", "kv"):
            getattr(stage.attentions[0], f"{which}_merger").register_forward_hook(
                lambda _module, _inputs, slots, into=found[-1], which=which: into.update(
                    {which: (slots.num_slots, slots.slot.shape[1])}
                )
            )
    run(model, torch.randn(1, 3, *SIZE))
    assert model.tokens_kept(SIZE) == found


@each_backbone
def test_copies_and_pickles_merge_alike(name):
    model = build(name, tome_cfg="hq-turbo")
    model.eval()
    image = torch.randn(1, 3, *SIZE)
    expected = run(model, image)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(map(torch.equal, run(again, image), expected))


@each_backbone
def test_it_is_registered(name):
    package, args = BACKBONES[name]
    if not compat.has(package):
        pytest.skip(f"{name} is {package}'s")
    model = MODELS.build(dict(type=f"mmseg_tome.{name}", tome_cfg="fast", **args))
    assert type(model) is getattr(models, name)


@each_backbone
@pytest.mark.parametrize(
    ("tome_cfg", "message"),
    [
        ("fsat", "unknown preset 'fsat'.*allowed: .*fast"),
        ([dict(q=dict(mode="bms"))], "tome_cfg, stage 1, q: unknown mode 'bms'.*allowed: bsm"),
        ([dict(kv=dict(mode="n2d", r=2))], "tome_cfg, stage 1, kv.*unknown key 'r'"),
        ([dict(reuse=0)], "tome_cfg, stage 1: reuse must be"),
        ([dict()] * 3, "tome_cfg has 3 entries"),
        ("fast-auto", "only mmseg_tome.MixVisionTransformer can choose by time"),
        (dict(auto="hq"), "only mmseg_tome.MixVisionTransformer can choose by time"),
        (7, "tome_cfg must be None, a preset's name or a list"),
    ],
)
def test_a_wrong_tome_cfg_is_refused(name, tome_cfg, message):
    if isinstance(tome_cfg, list) and len(tome_cfg) == 1:
        tome_cfg = tome_cfg + [dict()] * (STAGES[name] - 1)
    with pytest.raises(TomeConfigError, match=message):
        build(name, tome_cfg=tome_cfg)


@pytest.mark.parametrize("name", [name for name in BACKBONES if STAGES[name] == 4])
def test_an_image_that_is_too_small_is_refused(name):
    model = build(name)
    model.eval()
    with pytest.raises(ImageSizeError, match=r"2x16 tokens.* reduces 8x8"):
        run(model, torch.randn(1, 3, 8, 64))


@each_backbone
def test_an_out_index_of_minus_one_is_the_last(name):
    last = build(name).levels()[0] - 1
    model, expected = (build_with(name, out_indices=(i,)) for i in (-1, last))
    for each in (model, expected):
        each.eval()  # mmseg's ViT does not return itself
    expected.load_state_dict(model.state_dict())
    with torch.no_grad():
        outs = [list(m(torch.ones(1, 3, *SIZE))) for m in (model, expected)]
    assert len(outs[0]) == 1
    torch.testing.assert_close(*outs)


@each_backbone
def test_out_indices_that_are_not_there_are_refused(name):
    with pytest.raises(ValueError, match=r"out_indices .* must name one or more of the 4"):
        build_with(name, out_indices=(-9,))


def build_with(name, **changed):
    package, args = BACKBONES[name]
    if not compat.has(package):
        pytest.skip(f"{name} is {package}'s")
    return getattr(models, name)(**args | changed)
