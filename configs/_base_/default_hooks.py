# This package's hooks, by names that `--cfg-options default_hooks.NAME.OPTION=VALUE` takes in our
# tools and in the stock ones. Files that give default hooks of their own inherit it: mmengine lets
# no two files of one `_base_` list define the same key.
default_hooks = dict(
    checkpoint_guard=dict(type="mmseg_tome.CheckpointGuardHook"),
    dataset_guard=dict(type="mmseg_tome.DatasetGuardHook"),
    # CUDA graphs on a GPU, none with launch="eager"; half precision with dtype="bfloat16".
    fast_inference=dict(type="mmseg_tome.FastInferenceHook"),
    fast_training=dict(type="mmseg_tome.FastTrainingHook"),
    # Of `-auto` presets, and the advice which preset is faster.
    auto_merging=dict(type="mmseg_tome.AutoMergingHook"),
    # What merges, as pictures and numbers for the visualizers.
    merging_visualization=dict(type="mmseg_tome.MergingVisualizationHook", enabled=False),
)
