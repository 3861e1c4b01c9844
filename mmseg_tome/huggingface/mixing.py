"""Give one module another forward, and take it back: its class is exchanged, nothing else.

So its parameters, names, hooks and place in the model stay, `isinstance` of its own class holds,
and tools that look for the class by name, as `accelerate` and FSDP do, find it.
"""

import functools

from torch import nn

from mmseg_tome.errors import UserError


class ModelError(UserError, TypeError):
    """A model whose merging cannot be switched on or off."""


class Mixin:
    """A class whose methods go before those of a module's own class; see `mix_in`."""

    def __reduce_ex__(self, protocol):
        # A class made while a program runs cannot be found by name, as pickle and copy do.
        _, _, *state = super().__reduce_ex__(protocol)
        return (_new, type(self).__bases__, *state)


def mix_in(module: nn.Module, mixin: type[Mixin]) -> None:
    """Let the methods of `mixin` go before those of the module's class, for this module alone."""
    module.__class__ = _mixed(mixin, type(module))


def take_out(module: nn.Module) -> None:
    """Undo `mix_in`."""
    module.__class__ = type(module).__bases__[1]


def check_untouched(module: nn.Module) -> None:
    """Raise ModelError if others gave the module another forward, or another class after `mix_in`.

    Neither could be told apart from ours: what calls the forward of before would go on calling it.
    """
    other_class = isinstance(module, Mixin) and "is_mixed" not in vars(type(module))
    if other_class or "forward" in vars(module):
        raise ModelError(
            f"something else, like accelerate's device_map, changed the forward of a "
            f"{type(module).__name__}: apply or remove merging before that, or undo it first"
        )


@functools.cache
def _mixed(mixin: type[Mixin], base: type[nn.Module]) -> type[nn.Module]:
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "is_mixed": True}
    return type(base.__name__, (mixin, base), names)


def _new(mixin: type[Mixin], base: type[nn.Module]) -> nn.Module:
    """An instance without state, for pickle and copy."""
    mixed = _mixed(mixin, base)
    return mixed.__new__(mixed)
