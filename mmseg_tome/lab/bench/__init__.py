"""The parts of ``tools/benchmark.py``: cases, the peer pipeline, measuring and reporting."""

import mmseg_tome.compat  # noqa: F401  (before mmseg, where a part of the mm stack is missing)
