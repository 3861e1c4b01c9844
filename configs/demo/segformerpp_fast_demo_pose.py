_base_ = "./segformerpp_none_demo_pose.py"
model = dict(backbone=dict(tome_cfg="fast"))
