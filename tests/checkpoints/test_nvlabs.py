"""NVlabs' layout, restated by the names and epsilons of its parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmseg_tome.checkpoints import ConversionError, Source, convert, recognise
from mmseg_tome.checkpoints.writing import write_hugging_face

WIDTHS, DEPTHS, HEADS, REDUCTIONS = (8, 16, 40, 64), (1, 2, 1, 1), (1, 2, 5, 8), (8, 4, 2, 1)
FUSED, CLASSES = 16, 5


def tree(**children) -> nn.Module:
    """A module of these children, to be called by nobody."""
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


class Original(nn.Module):
    """`backbone.*` and `decode_head.*` as NVlabs' checkpoints have them, and what they compute."""

    def __init__(self):
        super().__init__()
        self.backbone, before = nn.Module(), 3
        for n, (width, depth, sr) in enumerate(zip(WIDTHS, DEPTHS, REDUCTIONS, strict=True), 1):
            kernel = 7 if n == 1 else 3
            proj = nn.Conv2d(before, width, kernel, 4 if n == 1 else 2, kernel // 2)
            blocks = nn.ModuleList(self.block(width, sr) for _ in range(depth))
            self.backbone.add_module(f"patch_embed{n}", tree(proj=proj, norm=nn.LayerNorm(width)))
            self.backbone.add_module(f"block{n}", blocks)
            self.backbone.add_module(f"norm{n}", nn.LayerNorm(width, eps=1e-6))
            before = width
        linears = {f"linear_c{n}": tree(proj=nn.Linear(w, FUSED)) for n, w in enumerate(WIDTHS, 1)}
        fuse = tree(conv=nn.Conv2d(4 * FUSED, FUSED, 1, bias=False), bn=nn.BatchNorm2d(FUSED))
        pred, unused = nn.Conv2d(FUSED, CLASSES, 1), nn.Conv2d(4, CLASSES, 1)
        self.decode_head = tree(**linears, linear_fuse=fuse, linear_pred=pred, conv_seg=unused)

    @staticmethod
    def block(width: int, sr: int) -> nn.Module:
        attn = tree(
            q=nn.Linear(width, width), kv=nn.Linear(width, 2 * width), proj=nn.Linear(width, width)
        )
        if sr > 1:
            attn.sr, attn.norm = nn.Conv2d(width, width, sr, sr), nn.LayerNorm(width)
        depthwise = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        mlp = tree(
            fc1=nn.Linear(width, 4 * width),
            dwconv=tree(dwconv=depthwise),
            fc2=nn.Linear(4 * width, width),
        )
        norms = {f"norm{k}": nn.LayerNorm(width, eps=1e-6) for k in (1, 2)}
        return tree(**norms, attn=attn, mlp=mlp)

    def forward(self, x):
        levels = []
        for n in range(1, 5):
            embed, norm = (
                getattr(self.backbone, f"patch_embed{n}"),
                getattr(self.backbone, f"norm{n}"),
            )
            x = embed.proj(x)
            h, w = x.shape[2:]
            x = embed.norm(x.flatten(2).mT)
            for block in getattr(self.backbone, f"block{n}"):
                x = x + self.attend(block.attn, block.norm1(x), HEADS[n - 1], h, w)
                hidden = block.mlp.fc1(block.norm2(x)).mT.unflatten(2, (h, w))
                x = x + block.mlp.fc2(F.gelu(block.mlp.dwconv.dwconv(hidden)).flatten(2).mT)
            x = norm(x).mT.unflatten(2, (h, w))
            levels.append(x)
        head = self.decode_head
        projected = [
            getattr(head, f"linear_c{n}").proj(level.movedim(1, -1)).movedim(-1, 1)
            for n, level in enumerate(levels, 1)
        ]
        size = levels[0].shape[2:]
        projected = [F.interpolate(p, size, mode="bilinear") for p in projected[::-1]]
        fused = head.linear_fuse.bn(head.linear_fuse.conv(torch.cat(projected, 1)))
        return head.linear_pred(fused.relu())

    @staticmethod
    def attend(attn, x, heads, h, w):
        q, reduced = attn.q(x), x
        if hasattr(attn, "sr"):
            reduced = attn.norm(attn.sr(x.mT.unflatten(2, (h, w))).flatten(2).mT)
        k, v = attn.kv(reduced).chunk(2, -1)
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return attn.proj((weights @ v).transpose(1, 2).flatten(2))


@pytest.fixture
def peer(randomise):
    return randomise(Original())


@pytest.fixture
def source(peer):
    names = [f"c{i}" for i in range(CLASSES)]
    palette = [[i, i, i] for i in range(CLASSES)]
    return Source(peer.state_dict(), meta=dict(CLASSES=names, PALETTE=palette))


def test_same_logits(peer, source, ours, logits, assert_same, image):
    checkpoint = convert(source)
    assert recognise(source).name == "nvlabs"
    assert checkpoint.classes == ("c0", "c1", "c2", "c3", "c4")
    assert checkpoint.palette[4] == (4, 4, 4)
    assert set(checkpoint.dropped) == {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"}
    with torch.no_grad():
        expected = peer(image)
    assert_same(logits(ours(checkpoint), image), expected)


def test_same_logits_on_to_hugging_face(peer, source, tmp_path, assert_same, image):
    transformers = pytest.importorskip("transformers")
    write_hugging_face(convert(source), tmp_path / "hf")
    there = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        assert_same(there(image).logits, peer(image))


def test_backbone_file(peer, source):
    bare = dict(peer.backbone.state_dict())
    bare.update({"head.weight": torch.zeros(9, 64), "head.bias": torch.zeros(9)})
    checkpoint = convert(Source(bare))
    assert (checkpoint.task, sorted(checkpoint.dropped)) == (
        "backbone",
        ["head.bias", "head.weight"],
    )
    whole = convert(source).backbone()
    assert checkpoint.state.keys() == whole.state.keys()
    assert all(torch.equal(checkpoint.state[key], value) for key, value in whole.state.items())


def test_missing_projection(source):
    state = dict(source.state)
    del state["backbone.block2.1.attn.q.bias"]
    with pytest.raises(ConversionError, match="lacks the q projection"):
        convert(Source(state))
