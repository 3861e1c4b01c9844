_base_ = [
    "../_base_/models/pvtv2_pose_b2.py",
    "../_base_/datasets/coco_384x288.py",
    "../_base_/schedules/adamw_210e.py",
    "../_base_/default_runtime_pose.py",
]
model = dict(head=dict(out_channels=17, decoder=_base_.codec))
default_hooks = dict(checkpoint=dict(save_best="coco/AP", rule="greater"))
