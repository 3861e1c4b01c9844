"""Arguments of any shapes: both backends refuse them alike, or give the same result."""

import os

import pytest
import torch

from mmseg_tome import ops

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

settings = hypothesis.settings(max_examples=int(os.environ.get("PROPERTY_EXAMPLES", 200)))

# Dimensions by name, as they are where everything fits.
FITTING = dict(B=2, N=6, C=4, M=3)
ARGUMENTS = {
    "layer_norm": dict(x="BNC", weight="C", bias="C", eps=1e-6),
    "shifted layer_norm": dict(x="BNC", weight="C", bias="C", eps=1e-6, dtype=None, shift="C"),
    "add_layer_norm": dict(
        residual="BNC", y="BNC", slot=None, weight="C", bias="C", eps=1e-6
    ),
    "gathering add_layer_norm": dict(
        residual="BNC", y="BMC", slot="map", weight="C", bias="C", eps=1e-6
    ),
    "depthwise_gelu": dict(x="BNC", weight="C133", bias="C", hw=(2, 3)),
    "segment_mean": dict(x="BNC", slot="map", num_slots=3),
    "gather_segments": dict(y="BMC", slot="map"),
    "gather_segments_add": dict(y="BMC", slot="map", residual="BNC"),
}  # fmt: skip


@st.composite
def calls(draw):
    """An operation and arguments for it, the dimensions of which may be anything small."""
    name = draw(st.sampled_from(sorted(ARGUMENTS)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    wrong = draw(st.booleans())

    def size(letter: str) -> int:
        right = int(letter) if letter.isdecimal() else FITTING[letter]
        # Mostly right, or nearly everything would be refused.
        return draw(st.sampled_from([right] * 6 + [1, 2, 3, 5])) if wrong else right

    arguments = {}
    for key, value in ARGUMENTS[name].items():
        if value == "map":
            batch, count = draw(st.sampled_from([1, size("B")])), size("N")
            value = torch.arange(count).expand(batch, -1).contiguous() % FITTING["M"]
        elif isinstance(value, str):
            value = torch.randn([size(letter) for letter in value], generator=generator)
        arguments[key] = value
    return name.split()[-1], arguments


def run(backend: str, name: str, arguments: dict, device):
    """The results as a tuple, or ValueError."""
    ops.set_backend(backend)
    placed = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    try:
        found = getattr(ops, name)(**placed)
    except ValueError:
        return ValueError
    finally:
        ops.set_backend("triton")
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.usefixtures("kernels")
def test_both_backends_refuse_or_compute_the_same(device):
    seen = {"refused": 0, "computed": 0}

    @settings
    @hypothesis.given(calls())
    def check(call):
        name, arguments = call
        slot = arguments.get("slot")
        rows = arguments.get("y", arguments.get("x"))
        # What a map holds is not looked at, which would wait for a GPU.
        if slot is not None and name != "segment_mean" and rows.ndim > 1:
            hypothesis.assume(slot.numel() and slot.max() < rows.shape[1])
        if name == "segment_mean":
            hypothesis.assume(slot.shape[1] >= FITTING["M"])
        expected, found = (run(backend, name, arguments, device) for backend in ("torch", "triton"))
        if expected is ValueError or found is ValueError:
            seen["refused"] += 1
            assert expected is found
            return
        seen["computed"] += 1
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)

    check()
    assert min(seen.values()) > sum(seen.values()) // 5
