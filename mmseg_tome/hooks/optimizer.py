"""A few large parameter groups where mmengine makes one for every parameter; bfloat16 on a CPU.

An optimizer works through its groups one by one: MiT-B5's 966 groups of one parameter cost far more
time in Python and in launches than the arithmetic of a step. Checkpoints hold the optimizer's state
in either layout and are brought to that of the run.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count

import torch
from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIMIZERS
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from mmseg_tome.errors import CheckpointError
from mmseg_tome.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

PLACES = "places"
"""The option of a group that says where its parameters stand in mmengine's list of all that train.

It goes into checkpoints, so that one of another layout can be converted.
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


IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")
"""Options that say how a step is computed: the running optimizer's, never those of a file."""

MULTIPLIERS = ("lr_mult", "decay_mult")

PER_GROUP = ("base_values", "_last_value", "min_values")
"""What mmengine's schedulers keep of every group, and at the end of the settings of no parameter
(`base_param_settings`)."""


def adapt_optimizer_state(checkpoint: dict, optim_wrapper: OptimWrapper) -> None:
    """Bring a checkpoint, in place, to the groups of the optimizer that is to resume from it.

    Moments follow their parameters, options and schedulers' values their groups; the state of a
    loss scaler stays as it is, if there is any. That of several optimizers is left to mmengine.

    Args:
        checkpoint: As mmengine saves it, with the groups of its default constructor or of
            `GroupedOptimWrapperConstructor`.
        optim_wrapper: Just built, by either.

    Raises:
        CheckpointError: It trained other parameters, or parameters that now share a group had
            different options, or the other way round.
    """
    if not isinstance(optim_wrapper, OptimWrapper) or isinstance(optim_wrapper, OptimWrapperDict):
        return
    groups = optim_wrapper.optimizer.param_groups
    wanted = layout(groups)
    total = sum(map(len, wanted))
    saved = checkpoint.get("optimizer")
    if saved is not None and saved.get("loss_scaler") == {}:
        del saved["loss_scaler"]  # of bfloat16, which needs none; a scaler refuses an empty state
    if saved is None:
        # The schedulers were saved alone: only the layout of a group a parameter needs mending.
        _regroup_schedulers(checkpoint, wanted, [[place] for place in range(total)])
    elif "param_groups" in saved:
        found = layout(saved["param_groups"])
        if found != wanted:
            _regroup_optimizer(saved, groups, found)
            _regroup_schedulers(checkpoint, wanted, found)
        for group, running in zip(saved["param_groups"], groups, strict=True):
            group.update({key: running[key] for key in IMPLEMENTATION if key in running})


def layout(groups: list[dict]) -> list[list[int]]:
    """For each group the places of its parameters in mmengine's list of all that train."""
    places = count()
    numbered = [[next(places) for _ in group["params"]] for group in groups]
    return [group.get(PLACES, own) for group, own in zip(groups, numbered, strict=True)]


def _regroup_optimizer(saved: dict, groups: list[dict], found: list[list[int]]) -> None:
    home = {
        place: (group, number)
        for group, places in zip(saved["param_groups"], found, strict=True)
        for place, number in zip(places, group["params"], strict=True)
    }
    wanted = layout(groups)
    if set(home) != set(chain(*wanted)):
        raise CheckpointError(
            f"its optimizer trains {len(home)} parameters, this one {sum(map(len, wanted))}"
        )
    state, regrouped, numbers = {}, [], count()
    for running, places in zip(groups, wanted, strict=True):
        members = [home[place] for place in places]
        options = _common_options(group for group, _ in members)
        for key in MULTIPLIERS:
            if options.get(key) != running.get(key):
                raise CheckpointError(
                    f"its optimizer has {key}={options.get(key)} for parameters that the config "
                    f"gives {running.get(key)}"
                )
        options["params"] = [next(numbers) for _ in places]
        if PLACES in running:
            options[PLACES] = places
        regrouped.append(options)
        for (_, old), new, parameter in zip(
            members, options["params"], running["params"], strict=True
        ):
            if old in saved["state"]:
                state[new] = saved["state"][old]
                _check_shapes(state[new], parameter)
    _check_parted(groups, [[id(home[place][0]) for place in places] for places in wanted])
    saved.update(state=state, param_groups=regrouped)


def _common_options(groups: Iterable[dict]) -> dict:
    first, *others = (
        {key: value for key, value in group.items() if key not in ("params", PLACES)}
        for group in groups
    )
    for other in others:
        for key in first.keys() | other.keys():
            if first.get(key) != other.get(key):
                raise CheckpointError(
                    f"its optimizer has {key}={first.get(key)} and {key}={other.get(key)} for "
                    "parameters to which the config gives equal options"
                )
    return first


def _check_parted(groups: list[dict], origins: list[list[int]]) -> None:
    """Refuse to give parameters of one saved group the same options, against the config."""
    heirs: dict[int, dict] = {}
    for group, ids in zip(groups, origins, strict=True):
        for origin in ids:
            first = heirs.setdefault(origin, group)
            for key in ("lr", "weight_decay"):
                if first.get(key) != group.get(key):
                    raise CheckpointError(
                        f"its optimizer has one {key} for parameters to which the config gives "
                        f"{first.get(key)} and {group.get(key)}"
                    )


def _check_shapes(state: dict, parameter) -> None:
    for key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
        value = state.get(key)
        if value is not None and value.shape != parameter.shape:
            raise CheckpointError(
                f"its optimizer has {key} of shape {tuple(value.shape)} for a parameter of shape "
                f"{tuple(parameter.shape)}"
            )


def _regroup_schedulers(checkpoint: dict, wanted: list[list[int]], found: list[list[int]]) -> None:
    """Give every group the value of the group that its first parameter was in."""
    origin = {place: index for index, places in enumerate(found) for place in places}
    sources = [origin[places[0]] for places in wanted]
    schedulers = checkpoint.get("param_schedulers")
    for scheduler in schedulers if isinstance(schedulers, list) else []:
        for key in PER_GROUP:
            values = scheduler.get(key)
            extra = len(values) - len(found) if isinstance(values, list) else None
            if extra == 1 or (extra == 0 and len(found) == 1):
                scheduler[key] = [values[index] for index in sources] + values[len(found) :]


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed-precision training in bfloat16 on a CPU, where mmengine's wrapper refuses to run.

    bfloat16 has the range of float32, so losses need no scaling.
    """

    @contextmanager
    def optim_context(self, model: torch.nn.Module):
        """The context of a training step: autocast, and gradient accumulation as configured."""
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield
