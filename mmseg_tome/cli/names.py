"""Names that options take or show, of modules that import torch; a test keeps them equal."""

MODELS = ("b0", "b1", "b2", "b3", "b4", "b5")
PRESETS = (
    "none",
    "hq",
    "fast",
    "n2d",
    "quality",
    "speed",
    "hq-turbo",
    "fast-turbo",
    "hq-prop",
    "fast-prop",
    "hq-auto",
    "fast-auto",
    "downsample",
)
MERGING_PRESETS = (
    "hq",
    "fast",
    "n2d",
    "quality",
    "speed",
    "hq-turbo",
    "fast-turbo",
    "hq-prop",
    "fast-prop",
    "hq-turbo-prop",
    "fast-turbo-prop",
)
SWEEPS = (
    "preset",
    "downsample",
    "ratio",
    "stride",
    "stage",
    "target",
    "reuse",
    "local",
    "local-stage",
)
AS_TYPED = ("test-slide", "test-whole", "train", "pose-coco", "pose-jbd", "losses")
DATASETS = ("cityscapes", "ade20k", "camvid", "coco", "jbd")
OPSET = 20
SCORES_MIB = 16
BOUNDARY_RATIO = 0.005
