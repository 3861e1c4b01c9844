"""The parts of ``tools/sweep.py``: trained checkpoints under many merging settings."""

import mmseg_tome.compat  # noqa: F401  (before mmseg, where a part of the mm stack is missing)
