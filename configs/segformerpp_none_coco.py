_base_ = [
    "./_base_/models/segformer_pose_mit_b5.py",
    "./_base_/datasets/coco_384x288.py",
    "./_base_/schedules/adamw_210e.py",
    "./_base_/default_runtime_pose.py",
]
model = dict(head=dict(out_channels=17, decoder=_base_.codec))
default_hooks = dict(checkpoint=dict(save_best="coco/AP", rule="greater"))
# The authors' unmerged checkpoint, the only one published: every variant tests it, or starts from
# it, as it is. (docs/zoo.md lists those that they trained with merging.)
load_from = "https://mediastore.rz.uni-augsburg.de/get/ZOgj2NmQLy/"
