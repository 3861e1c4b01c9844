import copy
import pickle

import pytest
import torch

from mmseg_tome.merging import BipartiteMatching, TomeConfigError
from mmseg_tome.models import MixVisionTransformer
from mmseg_tome.nets.errors import ImageSizeError
from mmseg_tome.registry import MODELS

PRESETS = [None, "hq", "fast", "n2d", "hq-turbo", "fast-prop"]
ALL = [dict(q=dict(mode="tome", ratio=0.4), kv=dict(mode="bsm", ratio=0.5, stride=(2, 2)))] * 4


def is_channels_last(x):
    _, channels, height, width = x.shape
    return x.stride() == (channels * height * width, 1, width * channels, channels)


def run(model, image):
    with torch.inference_mode():
        return model(image)


LOCAL = [dict(q=dict(mode="local", ratio=0.4), kv=dict(mode="local", ratio=0.6))] * 4


@pytest.mark.parametrize("tome_cfg", [*PRESETS, ALL, LOCAL])
@pytest.mark.parametrize("size", [(64, 64), (97, 71), (33, 130)])
def test_odd_sizes_keep_the_stock_shapes(tiny, tome_cfg, size):
    outs = run(tiny(tome_cfg=tome_cfg), torch.randn(2, 3, *size))
    grid, strides = size, (4, 2, 2, 2)
    for out, stride, channels in zip(outs, strides, (8, 16, 40, 64), strict=True):
        grid = tuple(-(-side // stride) for side in grid)
        assert out.shape == (2, channels, *grid)
        assert out.isfinite().all()


@pytest.mark.parametrize("tome_cfg", [*PRESETS, LOCAL])
def test_samples_of_a_batch_are_independent(tiny, tome_cfg):
    model, images = tiny(tome_cfg=tome_cfg), torch.randn(3, 3, 96, 128)
    together = run(model, images)
    for b in range(3):
        for batched, alone in zip(together, run(model, images[b : b + 1]), strict=True):
            torch.testing.assert_close(batched[b], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reuse", [1, 2, 3])
def test_every_kth_block_matches_and_the_others_merge_alike(tiny, reuse, monkeypatch):
    q = dict(mode="bsm", ratio=0.5, stride=(2, 2))
    model = tiny(tome_cfg=[dict(q=q, kv=q, reuse=reuse)] * 4)
    image, used, matched = torch.randn(2, 3, 96, 128), {}, []
    for i, (_, blocks, _) in enumerate(model.layers):
        for j, block in enumerate(blocks):
            block.attn.register_forward_hook(
                lambda _module, _args, out, key=(i, j): used.update({key: out[1]})
            )
    match = BipartiteMatching.__call__

    def count(strategy, metric, hw):
        matched.append(hw)
        return match(strategy, metric, hw)

    monkeypatch.setattr(BipartiteMatching, "__call__", count)
    run(model, image)
    grids = [grid for kinds in model.grids((96, 128)) for grid in kinds]
    wanted = [-(-n // reuse) for n in (2, 2, 3, 2)]
    assert len(matched) == 2 * sum(wanted)
    assert all(matched.count(grid) >= wanted[i // 2] for i, grid in enumerate(grids))
    for (i, j), slots in used.items():
        source = used[i, j - j % reuse]
        assert torch.equal(slots.q.slot, source.q.slot)
        assert torch.equal(slots.kv.slot, source.kv.slot)


@pytest.mark.parametrize("tome_cfg", PRESETS)
def test_two_runs_are_bit_equal(tiny, tome_cfg):
    model, image = tiny(tome_cfg=tome_cfg), torch.randn(2, 3, 96, 128)
    for first, second in zip(run(model, image), run(model, image), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("tome_cfg", PRESETS)
@pytest.mark.parametrize("batch", [1, 2])
def test_feature_maps_are_channels_last_and_never_copied(tiny, tome_cfg, batch):
    """No operator may copy a layout: `contiguous` and `clone` are what such copies appear as.

    torch takes a batch of one for channels-last only if the stride of the batch is right as well,
    and chooses slow kernels and copies otherwise.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = set()

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func.overloadpacket.__name__)
            if func is torch.ops.aten.convolution.default:
                assert is_channels_last(args[0])
            return func(*args, **(kwargs or {}))

    model, image = tiny(tome_cfg=tome_cfg), torch.randn(batch, 3, 64, 96)
    image = image.to(memory_format=torch.channels_last)
    run(model, image)  # index maps are built and cached
    with Record():
        outs = run(model, image)
    assert not seen & {"clone", "contiguous", "copy_", "_to_copy"}
    assert all(is_channels_last(out) for out in outs)


@pytest.mark.parametrize("tome_cfg", PRESETS)
def test_checkpointing_does_not_change_gradients(tiny, tome_cfg):
    plain, checkpointed = tiny(tome_cfg=tome_cfg), tiny(tome_cfg=tome_cfg, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    for model in (plain, checkpointed):
        sum(out.sum() for out in model.train()(image)).backward()
    for p, q in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("tome_cfg", PRESETS)
def test_gradients_reach_every_parameter_under_autocast_and_drop_path(tiny, tome_cfg):
    model = tiny(tome_cfg=tome_cfg, drop_path_rate=0.1, drop_rate=0.1, attn_drop_rate=0.1).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(out.float().square().mean() for out in model(torch.randn(2, 3, 96, 96)))
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name


@pytest.mark.parametrize("tome_cfg", PRESETS)
def test_bfloat16_is_near_float32(tiny, tome_cfg):
    model, image = tiny(tome_cfg=tome_cfg), torch.randn(1, 3, 128, 128)
    expected = run(model, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outs = run(model, image)
    # Which tokens merge may change with rounding; the features as a whole may not.
    for out, exact in zip(outs, expected, strict=True):
        assert (out - exact).norm() / exact.norm() < 0.1


@pytest.mark.parametrize("tome_cfg", PRESETS)
def test_blocks_compile_without_graph_breaks(tiny, tome_cfg):
    model, image = tiny(tome_cfg=tome_cfg), torch.randn(1, 3, 64, 96)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for out, expected in zip(run(compiled, image), run(model, image), strict=True):
        torch.testing.assert_close(out, expected)


def saved_bytes(model, image):
    """Bytes of the activations that a forward pass keeps for the backward pass."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (storage.nbytes(), x)  # x, so that no other takes its place
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model(image)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("tome_cfg", PRESETS[1:])
def test_merging_keeps_no_more_activations_for_training(tiny, tome_cfg):
    image = torch.randn(1, 3, 256, 256)
    merged, unmerged = (saved_bytes(tiny(tome_cfg=cfg).train(), image) for cfg in (tome_cfg, None))
    assert merged < unmerged


def test_inference_then_training_then_a_new_grid(tiny):
    model = tiny(tome_cfg="hq")
    for size in ((64, 96), (96, 64), (64, 96)):
        run(model, torch.randn(1, 3, *size))
        sum(out.sum() for out in model(torch.randn(1, 3, *size))).backward()


def test_copies_and_pickles(tiny):
    model, image = tiny(tome_cfg="fast"), torch.randn(1, 3, 64, 64)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for out, expected in zip(run(twin, image), run(model, image), strict=True):
            assert torch.equal(out, expected)


def test_out_indices_select_stages(tiny):
    image = torch.randn(1, 3, 64, 64)
    every = run(tiny(), image)
    some = tiny(out_indices=(1, 3))
    assert [out.shape for out in run(some, image)] == [every[1].shape, every[3].shape]
    assert [out.shape for out in run(tiny(out_indices=(-1,)), image)] == [every[3].shape]


@pytest.mark.parametrize("tome_cfg", [*PRESETS, ALL])
@pytest.mark.parametrize("size", [(64, 96), (97, 71)])
@pytest.mark.parametrize("down_sample", [False, True])
def test_tokens_kept_are_those_of_the_slot_maps(tiny, tome_cfg, size, down_sample):
    model = tiny(tome_cfg=tome_cfg, down_sample=down_sample)
    kept = model.tokens_kept(size)
    seen = {}

    def remember(key):
        def hook(module, args, slots):
            seen[key] = (slots.num_slots, args[0].shape[1])

        return hook

    for i, (_, blocks, _) in enumerate(model.layers):
        for name in ("q", "kv"):
            merger = getattr(blocks[0].attn, f"{name}_merger")
            merger.register_forward_hook(remember((i, name)))
    run(model, torch.randn(1, 3, *size))
    assert {(i, name): kept[i][name] for i, name in seen} == seen


@pytest.mark.parametrize("down_sample", [False, True])
def test_smallest_image(tiny, down_sample):
    model = tiny(tome_cfg="fast", down_sample=down_sample)
    side = model.min_size
    run(model, torch.randn(1, 3, side, side))
    with pytest.raises(ImageSizeError, match=f"{side - 1}x200 pixels is too small.*{side}"):
        model(torch.randn(1, 3, side - 1, 200))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_layers=[1, 2]), "num_layers has 2 entries for 4 stages"),
        (dict(out_indices=(0, 4)), r"out_indices \(0, 4\) must name .* of the 4 stages, 0 to 3"),
        (dict(out_indices=(-5,)), "must name one or more of the 4 stages"),
        (dict(out_indices=()), "must name one or more of the 4 stages"),
        (dict(pretrained="a.pth", init_cfg=dict(type="Pretrained")), "cannot be set at the same"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MixVisionTransformer(**kwargs)


@pytest.mark.parametrize("scope", ["mmseg", "mmpose"])
def test_configs_of_both_packages_build_it_by_name(scope):
    from importlib import import_module

    pytest.importorskip(scope)
    registry = import_module(f"{scope}.registry").MODELS
    cfg = dict(type="mmseg_tome.MixVisionTransformer", num_layers=[1] * 4, tome_cfg="hq")
    assert isinstance(registry.build(cfg), MixVisionTransformer)
    with pytest.raises(TomeConfigError, match=r"unknown preset 'hd'.*allowed: fast, .*hq, .*n2d"):
        MODELS.build(dict(cfg, tome_cfg="hd"))
