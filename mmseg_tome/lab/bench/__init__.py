"""Benchmarks: of networks beside a peer, of exported ones, of transformers', and of the tools.

A benchmark of networks reads downwards: `benchmark` makes each `cases.Case`, which `inference` or
`training` measures (`measure`, `flops`; `breakdown` with `parts`, `floor`, `rates`) on `networks`
and the `peer`; `results`, `tables` and `plots` report it. `as_typed` times the tools themselves.
"""

import mmseg_tome.compat  # noqa: F401  (before mmseg, where a part of the mm stack is missing)
