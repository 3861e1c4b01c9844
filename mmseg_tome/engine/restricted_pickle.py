"""`weights_only` loading with a list of further classes, for torch before 2.6.

Those versions can load bare weights safely, but not what mmengine saves beside them. This is the
standard remedy of Python's documentation ("Restricting Globals"): an unpickler that finds only
what is on a list. torch 2.6 and later have their own, which `checkpoint.py` uses.
"""

import pickle
from collections.abc import Iterable
from types import SimpleNamespace


def restricted_pickle(classes: Iterable) -> SimpleNamespace:
    """A stand-in for the module `pickle`, to be given to `torch.load` as `pickle_module`.

    Args:
        classes: What may be looked up besides torch's own list: classes and functions, or pairs
            of one and the full name it answers to.
    """
    from torch._weights_only_unpickler import _get_allowed_globals

    allowed = dict(_get_allowed_globals())
    for entry in classes:
        found, name = entry if isinstance(entry, tuple) else (entry, _full_name(entry))
        allowed[name] = found

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str):
            try:
                return allowed[f"{module}.{name}"]
            except KeyError:
                message = f"Unsupported global: GLOBAL {module}.{name}"
                raise pickle.UnpicklingError(message) from None

    def load(file, **kwargs):
        return Unpickler(file, **kwargs).load()

    return SimpleNamespace(Unpickler=Unpickler, load=load, __name__="restricted_pickle")


def _full_name(found) -> str:
    return f"{found.__module__}.{found.__qualname__}"
