"""What `mmseg_tome.hooks` was called: saved configs name it in `custom_imports`."""

from mmseg_tome.hooks import *  # noqa: F403
