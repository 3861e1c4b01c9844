"""SegFormer++ token merging for MMSegmentation and MMPose (arXiv 2405.14467).

mmseg_tome.load("segformerpp_fast_cityscapes").predict("street.jpg").draw()  # with an mm stack

model = mmseg_tome.create_model("b5", num_classes=19, tome_cfg="fast")  # torch alone
mmseg_tome.load_weights(model, "segformer_b5.pth")
mmseg_tome.set_merging(model, "hq")  # also a stock backbone's model, and one of transformers

mmseg_tome.apply_merging(model_of_transformers, "fast")  # or a pipeline of transformers
"""

import importlib

__version__ = "0.1.0"

_LAZY = {
    "MixVisionTransformer": "mmseg_tome.nets",
    "add_to_inferencers": "mmseg_tome.predict.zoo",
    "apply_merging": "mmseg_tome.huggingface",
    "create_model": "mmseg_tome.nets",
    "load": "mmseg_tome.predict.load",
    "load_weights": "mmseg_tome.checkpoints.torch_alone",
    "remove_merging": "mmseg_tome.huggingface",
    "set_merging": "mmseg_tome.runtime.merging_switch",
    "without_merging": "mmseg_tome.runtime.merging_switch",
    "calibrate": "mmseg_tome.runtime.calibration",
}
"""What is imported on first use, so that `import mmseg_tome` needs no torch."""

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
