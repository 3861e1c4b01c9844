"""Batches whose every tensor torch's data loader can pin, so that no copy to the GPU is waited for.

torch pins what lies in dicts, lists and tuples; pixel labels and heatmaps lie inside mmengine's
data samples, which it passes over.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.dataset import pseudo_collate
from mmengine.runner import BaseLoop, Runner
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmseg_tome.registry import FUNCTIONS


class Batch(dict):
    """A batch that knows how to pin itself.

    torch 2.11 and later call `pin_memory`. Earlier ones take a batch for any other dict: images are
    pinned, and what is inside data samples is not.
    """

    def pin_memory(self) -> "Batch":
        """This batch with every tensor in page-locked memory."""
        return pin(self)


@FUNCTIONS.register_module()
def pinnable_collate(data_batch: Sequence) -> Any:
    """Collate samples as mmengine's `pseudo_collate` does, into a batch that can be pinned."""
    batch = pseudo_collate(data_batch)
    return Batch(batch) if isinstance(batch, dict) else batch


def pin(data: Any, pin_tensor: Callable[[Tensor], Tensor] = Tensor.pin_memory) -> Any:
    """Pin the tensors in nested dicts, lists, tuples and data elements.

    Containers are made anew, of their types. Data elements keep their identity and get the pinned
    tensors, equal in value, in place: copying one would copy all its meta information.

    Args:
        data: Batch, on the CPU.
        pin_tensor: What pins one tensor.
    """
    if isinstance(data, Tensor):
        return pin_tensor(data)
    if isinstance(data, BaseDataElement):
        for key, value in data.items():
            if isinstance(value, Tensor):
                setattr(data, key, pin_tensor(value))
            elif isinstance(value, BaseDataElement):
                pin(value, pin_tensor)
        return data
    if isinstance(data, Mapping):
        return type(data)({key: pin(value, pin_tensor) for key, value in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(pin(value, pin_tensor) for value in data))
    if isinstance(data, (list, tuple)):
        return type(data)(pin(value, pin_tensor) for value in data)
    return data


def pin_loader(dataloader_cfg: dict) -> None:
    """Make a data loader pin batches for a GPU, unless its config says how to pin or collate."""
    if "collate_fn" not in dataloader_cfg and dataloader_cfg.setdefault("pin_memory", True):
        dataloader_cfg["collate_fn"] = dict(type="mmseg_tome.pinnable_collate")


def stop_loaders(runner: Runner) -> None:
    """End the processes that load a runner's data.

    At the end of a program torch waits five seconds for each process that is persistent and pins.
    """
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        if isinstance(loop, BaseLoop):
            for owner in (loop.dataloader, getattr(loop, "dataloader_iterator", None)):
                iterator = getattr(owner, "_iterator", None)
                if hasattr(iterator, "_shutdown_workers"):
                    iterator._shutdown_workers()
