"""A few large parameter groups where mmengine makes one for every parameter.

An optimizer works through its groups one by one: MiT-B5's 966 groups of one parameter cost far more
time in Python and in launches than the arithmetic of a step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIMIZERS
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from mmseg_tome.registry import OPTIM_WRAPPER_CONSTRUCTORS

PLACES = "places"
"""The option of a group that says where its parameters stand in mmengine's list of all that train.

It goes into checkpoints, so that one of another layout can be converted (`optimizer_state.py`).
"""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GroupedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor, with parameters of equal options in one group.

    Every parameter has the learning rate, weight decay and other options that `paramwise_cfg` gives
    it in mmengine. On a GPU, Adam and AdamW take torch's fused kernel, unless the config sets
    `fused`, `foreach` or `differentiable`.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer of `model`, which may be wrapped, and the wrapper around it."""
        configured = self.optimizer_cfg
        self.optimizer_cfg = fused_on_gpu(configured, model)
        try:
            wrapper = super().__call__(model)
        finally:
            self.optimizer_cfg = configured
        frozen = sum(not parameter.requires_grad for parameter in model.parameters())
        print_log(describe(wrapper.optimizer, frozen), logger="current")
        return wrapper

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module=None
    ) -> None:
        """Append the groups of `module` to `params`; mmengine recurses by way of this method."""
        if prefix:
            super().add_params(params, module, prefix, is_dcn_module)
            return
        with _silent(MMLogger.get_current_instance()):  # mmengine logs a line for every option
            super().add_params(params, module, prefix, is_dcn_module)
        params[:] = grouped(params)


def grouped(params: list[dict]) -> list[dict]:
    """Put groups with equal options together, in the order of first occurrence.

    Args:
        params: mmengine's groups, with one parameter each.
    """
    if len({id(group["params"][0]) for group in params}) < len(params):
        return params  # shared parameters: torch refuses them by name, as it does for mmengine
    groups: list[dict] = []
    known: list[dict] = []
    for place, group in enumerate(params):
        options = {key: value for key, value in group.items() if key != "params"}
        if options not in known:
            known.append(options)
            groups.append({**options, "params": [], PLACES: []})
        home = groups[known.index(options)]
        home["params"] += group["params"]
        home[PLACES].append(place)
    return groups


def fused_on_gpu(optimizer_cfg: dict, model: nn.Module) -> dict:
    """Add `fused=True` to a config of Adam or AdamW whose parameters are on a GPU."""
    kind = optimizer_cfg["type"]
    kind = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
    training = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if (
        kind in (Adam, AdamW)
        and not {"fused", "foreach", "differentiable"} & set(optimizer_cfg)
        and training
        and all(_fusible(parameter) for parameter in training)
    ):
        return dict(optimizer_cfg, fused=True)
    return optimizer_cfg


def describe(optimizer: Optimizer, frozen: int) -> str:
    """Say in one line how many parameters train at which learning rate and weight decay."""
    groups, sizes = [], []
    for group in optimizer.param_groups:
        options = [
            f"{key.replace('_', ' ')} {group[key]:g}"
            for key in ("lr", "weight_decay")
            if key in group
        ]
        sizes.append(sum(parameter.requires_grad for parameter in group["params"]))
        groups.append(f"{sizes[-1]} ({', '.join(options)})")
    fused = "fused " if optimizer.defaults.get("fused") else ""
    count = f"{len(groups)} group{'s' * (len(groups) > 1)}"
    still = f"; {frozen} frozen" if frozen else ""
    name = type(optimizer).__name__
    return f"{fused}{name} of {sum(sizes)} parameters in {count}: {', '.join(groups)}{still}"


def _fusible(parameter: torch.Tensor) -> bool:
    return parameter.is_cuda and parameter.is_floating_point()


@contextmanager
def _silent(logger: MMLogger) -> Iterator[None]:
    def nothing(record) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)
