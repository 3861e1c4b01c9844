"""The parts of ``tools/tune.py``: searching the merging that costs least for the time it saves."""

import mmseg_tome.compat  # noqa: F401  (before mmseg, where a part of the mm stack is missing)
