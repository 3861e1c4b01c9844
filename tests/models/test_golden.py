"""The authors' own outputs, computed in float64, for a tiny MiT with fixed weights."""

import numpy as np
import pytest
import torch

CASES = {
    "none": None,
    "hq": "hq",
    "fast": "fast",
    "n2d": "n2d",
    "n1d": [dict(q_mode="n1d", q_s=2)] * 4,
    "n2d_kv": [dict(kv_mode="n2d", kv_s=(2, 2))] * 2 + [dict()] * 2,
    "mixed": [dict(q_mode="n2d", q_s=(2, 2), kv_mode="bsm", kv_r=0.6, kv_sx=2, kv_sy=2)] * 2
    + [dict(q_mode="bsm", q_r=0.5, q_sx=2, q_sy=3)] * 2,
    "downsample": None,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", ["128x160", "146x210"])
def test_equal_to_the_authors(shared, tiny, size, case):
    golden = np.load(shared / "golden" / f"mit_tiny_{size}.npz")
    model = tiny(tome_cfg=CASES[case], down_sample=case == "downsample")
    state = {key[3:]: torch.from_numpy(golden[key]) for key in golden if key.startswith("sd/")}
    model.load_state_dict(state)
    with torch.inference_mode():
        outs = model(torch.from_numpy(golden["input"]))
    for i, out in enumerate(outs):
        expected = torch.from_numpy(golden[f"out/{case}/{i}"])
        assert out.shape == expected.shape
        assert (out - expected).norm() / expected.norm() < 1e-5
