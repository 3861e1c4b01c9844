"""Any `tome_cfg` is read, or one line refuses it; what is read merges tokens on any grid.

`PROPERTY_EXAMPLES` sets how many cases each property is tried on.
"""

import os

import pytest
import torch

from mmseg_tome.merging import PRESETS, StageMerging, TomeConfigError, merges, parse_tome_cfg
from mmseg_tome.merging.strategies import STRATEGIES

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

settings = hypothesis.settings(max_examples=int(os.environ.get("PROPERTY_EXAMPLES", 150)))

numbers = st.one_of(st.integers(), st.floats(), st.integers(0, 5), st.floats(0, 1), st.booleans())
names = st.sampled_from(
    [*PRESETS, *STRATEGIES, "none", "None", "hq-auto", "none-auto", "-auto", "", "bsm", "n2d"]
)
words = st.one_of(names, st.text(max_size=4))
values = st.one_of(
    st.none(), numbers, words, st.tuples(numbers, numbers), st.lists(numbers, max_size=3)
)
keys = st.one_of(
    st.sampled_from(
        ["mode", "ratio", "stride", "q", "kv", "reuse", "proportional", "auto", "q_mode", "q_r",
         "q_sx", "q_sy", "q_s", "kv_mode", "kv_r", "kv_sx", "kv_sy", "kv_s", "_delete_"]
    ),
    st.text(max_size=3),
    st.integers(),
)  # fmt: skip
anything = st.recursive(
    values,
    lambda parts: st.one_of(
        st.lists(parts, max_size=5), st.dictionaries(keys, parts, max_size=5), st.tuples(parts)
    ),
    max_leaves=20,
)

ratios = st.floats(0, 1, exclude_max=True)
strides = st.tuples(st.integers(1, 5), st.integers(1, 5))
mergers = st.one_of(
    st.none(),
    st.just("none"),
    st.builds(lambda r, s: dict(mode="bsm", ratio=r, stride=s), ratios, strides),
    st.builds(lambda s: dict(mode="n2d", stride=list(s)), strides),
    st.builds(lambda s: dict(mode="n1d", stride=s), st.integers(1, 5)),
    st.builds(lambda r: dict(mode="tome", ratio=r), ratios),
)
stages = st.builds(
    lambda q, kv, reuse, proportional: dict(q=q, kv=kv, reuse=reuse, proportional=proportional),
    mergers, mergers, st.integers(1, 4), st.booleans(),
)  # fmt: skip
flat_stages = st.builds(
    lambda r, s: dict(q_mode="bsm", q_r=r, q_sy=s[0], q_sx=s[1], kv_mode="n2d", kv_s=s),
    ratios, strides,
)  # fmt: skip


@settings
@hypothesis.given(anything, st.integers(1, 5))
def test_anything_is_read_or_refused_in_one_line(tome_cfg, num_stages):
    merges(tome_cfg)
    try:
        found = parse_tome_cfg(tome_cfg, num_stages)
    except TomeConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert "tome_cfg" in str(error)  # noqa: PT017
    else:
        assert len(found) == num_stages
        assert all(type(stage) is StageMerging for stage in found)


@settings
@hypothesis.given(st.one_of(stages, flat_stages), st.integers(1, 9), st.integers(1, 9))
def test_what_is_read_maps_every_token_of_any_grid(stage, height, width):
    (found,) = parse_tome_cfg([stage], 1)
    metric = torch.linspace(-1, 1, height * width * 4).sin().reshape(1, height * width, 4)
    for strategy in (found.q, found.kv):
        slots = strategy(metric, (height, width))
        count = strategy.num_slots((height, width))
        assert slots.slot.shape[-1] == height * width
        assert slots.slot.unique().tolist() == list(range(count))
