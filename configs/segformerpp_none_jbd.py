_base_ = [
    "./_base_/models/segformer_pose_mit_b5.py",
    "./_base_/datasets/jbd_640x480.py",
    "./_base_/schedules/adamw_210e.py",
    "./_base_/default_runtime_pose.py",
]
model = dict(head=dict(out_channels=20, decoder=_base_.codec))
default_hooks = dict(checkpoint=dict(save_best="PCK@0.1/PCK", rule="greater"))
# The authors' unmerged checkpoint, the only one published: every variant tests it, or starts from
# it, as it is. (docs/zoo.md lists those that they trained with merging.)
load_from = "https://mediastore.rz.uni-augsburg.de/get/psolrWXLLp/"
