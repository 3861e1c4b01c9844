_base_ = [
    "../_base_/models/segformer_mit_b2.py",
    "../_base_/datasets/cityscapes_1024x1024.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(1024, 1024)),
    test_cfg=dict(mode="slide", crop_size=(1024, 1024), stride=(768, 768)),
)
# The zoo's unmerged checkpoint: every variant tests it, or starts from it, as it is.
load_from = (
    "https://mmassets.onedl.ai/mmsegmentation/v0.5/segformer/"
    "segformer_mit-b2_8x1_1024x1024_160k_cityscapes/"
    "segformer_mit-b2_8x1_1024x1024_160k_cityscapes_20211207_134205-6096669a.pth"
)
