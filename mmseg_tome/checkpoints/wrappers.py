"""Parameters out of the wrappers that training tools put around them. Torch alone.

Files: `{"state_dict": ...}` of mm, Lightning and many more, `{"model": ...}`, averaged weights
beside the others (`"model_ema"`). Names: `module.` of data-parallel and averaged models,
`_orig_mod.` of `torch.compile`, `model.` of Lightning.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

State = dict[str, Tensor]

CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
"""Where training tools put parameters among other things."""

AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
"""Where they put averages of them, which are taken where there is nothing else."""

PREFIXES = ("module", "model", "net", "network")
SEGMENTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
COUNTERS = frozenset({"n_averaged", "steps"})
"""What averaged models count beside their parameters."""


def find_parameters(checkpoint) -> State | None:
    """The parameters in what was saved, by the names that they have there; None if there are none.

    Args:
        checkpoint: Anything.
    """
    found = checkpoint
    for _ in range(3):  # such as {"model": {"state_dict": ...}}
        if not isinstance(found, Mapping):
            return None
        inner = [found[key] for key in (*CONTAINERS, *AVERAGED) if _holds_tensors(found.get(key))]
        if not inner:
            break
        found = inner[0]
    return found if _is_state(found) else None


def plain_names(state: Mapping[str, Tensor], lightning: bool = False) -> State:
    """The parameters by the names that they have in a model that nothing wraps.

    Args:
        state: Parameters by any names.
        lightning: Whether Lightning saved them, beside whose `model.` may stand losses and metrics.

    Returns:
        As many of them, or `state` itself if they have plain names, or two would get one name.
    """
    names = renamed(state, lightning)
    unchanged = list(names) == list(names.values()) == list(state)
    if unchanged or len(set(names.values())) < len(names):
        return state
    return {plain: state[name] for name, plain in names.items()}


def renamed(state: Iterable[str], lightning: bool = False) -> dict[str, str]:
    """For the names of parameters, but for counters and copies, their plain names."""
    names = {name: str(name) for name in state}
    counted = [name for name in names if name not in COUNTERS]
    if len(counted) < len(names) and all(name.startswith("module.") for name in counted):
        names = {name: name for name in counted}
    names = {
        name: ".".join(part for part in plain.split(".") if part not in SEGMENTS)
        for name, plain in names.items()
    }
    if lightning and any(plain.startswith("model.") for plain in names.values()):
        names = {name: plain for name, plain in names.items() if plain.startswith("model.")}
    while shared := _shared_prefix(names.values()):
        names = {name: plain.removeprefix(shared) for name, plain in names.items()}
    averaged = {f"ema_{plain.replace('.', '_')}" for plain in names.values()}  # of mmcv 0.x and 1.x
    return {name: plain for name, plain in names.items() if plain not in averaged}


def unwrap(checkpoint):
    """A checkpoint of another training tool as one of mmengine's; others stay as they are.

    mmengine's own checkpoints, which have a `meta`, keep their names: a model may call a part of
    itself `model`.
    """
    if not isinstance(checkpoint, dict) or "meta" in checkpoint:
        return checkpoint
    state = find_parameters(checkpoint)
    if state is None:
        return checkpoint
    plain = plain_names(state, is_lightning(checkpoint))
    if plain.keys() == checkpoint.keys():
        return checkpoint  # nothing but parameters by plain names
    return {**checkpoint, "state_dict": plain} if state is not checkpoint else plain


def fitting_names(state: Mapping[str, Tensor], wanted: Iterable[str]) -> State:
    """The parameters by the names that a model has for them.

    Args:
        state: Parameters by any names.
        wanted: The model's names, which may have wrappers in them as well.

    Returns:
        `state` itself, if its own names fit as well as any.
    """
    wanted = list(wanted)
    named = {plain: name for name, plain in renamed(wanted).items()}
    fitting = {named.get(plain, plain): value for plain, value in plain_names(state).items()}
    have, could_have = (len(set(wanted) & set(names)) for names in (state, fitting))
    return fitting if could_have > have else state


def is_lightning(checkpoint: Mapping) -> bool:
    """Whether PyTorch Lightning wrote a checkpoint."""
    return "pytorch-lightning_version" in checkpoint


def _shared_prefix(names: Iterable[str]) -> str | None:
    firsts = {name.partition(".")[0] if "." in name else None for name in names}
    first = firsts.pop() if len(firsts) == 1 else None
    return f"{first}." if first in PREFIXES else None


def _holds_tensors(value) -> bool:
    """Whether a mapping is, or holds, parameters."""
    if not isinstance(value, Mapping):
        return False
    inner = any(_is_state(value.get(key)) for key in (*CONTAINERS, *AVERAGED))
    return inner or _is_state(value)


def _is_state(value) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) for key in value)
        and sum(isinstance(each, Tensor) for each in value.values()) > 0.9 * len(value)
    )
