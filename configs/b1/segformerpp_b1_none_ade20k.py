# The paper uses 640x640; the public checkpoint of this size was trained on 512x512.
_base_ = [
    "../_base_/models/segformer_mit_b1.py",
    "../_base_/datasets/ade20k_512x512.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=150),
)
# The zoo's unmerged checkpoint: every variant tests it, or starts from it, as it is.
load_from = (
    "https://mmassets.onedl.ai/mmsegmentation/v0.5/segformer/"
    "segformer_mit-b1_512x512_160k_ade20k/"
    "segformer_mit-b1_512x512_160k_ade20k_20210726_112106-d70e859d.pth"
)
