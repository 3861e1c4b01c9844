"""Named settings: the published ones, and ours, found by measurement or derived from those."""

_HQ_KV = {"mode": "bsm", "ratio": 0.6, "stride": (2, 2)}
_HQ_Q = {"mode": "bsm", "ratio": 0.8, "stride": (4, 4)}
_FAST = {"mode": "bsm", "ratio": 0.9, "stride": (4, 4)}
_N2D = {"mode": "n2d", "stride": (2, 2)}

# SegFormer++, table 1; from the authors' own config files.
PUBLISHED: dict[str, list[dict]] = {
    "hq": [{"kv": _HQ_KV}, {"kv": _HQ_KV}, {"q": _HQ_Q}, {"q": _HQ_Q}],
    "fast": [{"kv": _FAST}, {"kv": _FAST}, {"q": _FAST}, {"q": _FAST}],
    "n2d": [{"q": _N2D}] * 4,
}

# What docs/results/accuracy.md and gpu.md measured to be closest to the unmerged model at its
# speed on a GPU: queries of the last stage, and keys of the first two, cost much closeness for the
# little time that they save.
MEASURED: dict[str, list[dict]] = {
    "quality": [{"q": _N2D}, {"q": _N2D}, {"q": _N2D}, {}],
    "speed": [{"q": _N2D}, {"q": _N2D}, {"q": _N2D, "kv": _N2D}, {}],
}

TURBO_REUSE = 4
"""Blocks in a row that share slot maps in the turbo presets; see docs/results/gpu.md."""

_TURBO = {
    f"{name}-turbo": [stage | {"reuse": TURBO_REUSE} for stage in PUBLISHED[name]]
    for name in ("hq", "fast")
}
_BIPARTITE = {name: PUBLISHED[name] for name in ("hq", "fast")} | _TURBO
_PROPORTIONAL = {
    f"{name}-prop": [stage | {"proportional": True} for stage in stages]
    for name, stages in _BIPARTITE.items()
}

PRESETS: dict[str, list[dict]] = PUBLISHED | MEASURED | _TURBO | _PROPORTIONAL
"""`tome_cfg` of each preset: one dict per stage of a four-stage backbone."""
