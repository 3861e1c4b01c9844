"""Our children of mmengine's registries: what a config reaches as `type="mmseg_tome.X"`.

mmengine imports this module by itself the first time a config names the scope, and hides any
ImportError raised here. It therefore imports mmengine alone; the modules that register
something are imported by the registries, on first use, from `locations`.
"""

from mmengine import registry as root
from mmengine.registry import Registry

SCOPE = "mmseg_tome"

MODELS = Registry("model", parent=root.MODELS, scope=SCOPE, locations=["mmseg_tome.models"])
DATASETS = Registry("dataset", parent=root.DATASETS, scope=SCOPE, locations=["mmseg_tome.datasets"])
METRICS = Registry("metric", parent=root.METRICS, scope=SCOPE, locations=["mmseg_tome.evaluation"])
HOOKS = Registry("hook", parent=root.HOOKS, scope=SCOPE, locations=["mmseg_tome.hooks"])
OPTIM_WRAPPERS = Registry(
    "optim_wrapper",
    parent=root.OPTIM_WRAPPERS,
    scope=SCOPE,
    locations=["mmseg_tome.hooks"],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    scope=SCOPE,
    locations=["mmseg_tome.hooks"],
)
FUNCTIONS = Registry("function", parent=root.FUNCTIONS, scope=SCOPE, locations=["mmseg_tome.hooks"])
