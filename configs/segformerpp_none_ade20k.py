_base_ = [
    "./_base_/models/segformer_mit_b5.py",
    "./_base_/datasets/ade20k_640x640.py",
    "./_base_/schedules/adamw_160k.py",
    "./_base_/default_runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    decode_head=dict(num_classes=150),
)
# The zoo's unmerged checkpoint: every variant tests it, or starts from it, as it is.
load_from = (
    "https://mmassets.onedl.ai/mmsegmentation/v0.5/segformer/"
    "segformer_mit-b5_640x640_160k_ade20k/"
    "segformer_mit-b5_640x640_160k_ade20k_20210801_121243-41d2845b.pth"
)
