"""Data of a run: checked before it begins, and pinned.

torch pins tensors in dicts, lists and tuples; pixel labels and heatmaps are inside mmengine's data
samples, which it does not look into.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmseg_tome.datasets.checks import check_dataset, check_segmentation
from mmseg_tome.registry import FUNCTIONS, HOOKS


@HOOKS.register_module()
class DatasetGuardHook(Hook):
    """Refuse data sets that are empty, lack files, or hold other classes, labels or keypoints.

    Without it such data ends a run later, with the traceback of a data loader's worker. Looking
    through COCO's 150,000 persons takes seconds; of labels a few are read.
    """

    priority = "VERY_HIGH"

    def before_run(self, runner: Runner) -> None:
        """Check the data of every loop of this run.

        Raises:
            DataError: A data set cannot be used with this model; the message says why.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        keypoints = getattr(getattr(model, "head", None), "out_channels", None)
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if isinstance(loop, BaseLoop):
                for dataset in _base_datasets(loop.dataloader.dataset):
                    check_dataset(dataset, keypoints)
                    check_segmentation(dataset, model, loop is runner._train_loop)


def _base_datasets(dataset) -> Iterator[BaseDataset]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if isinstance(dataset, BaseDataset) and not hasattr(dataset, "datasets"):
        yield dataset
        return
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    for part in inner:
        if part is not None:
            yield from _base_datasets(part)


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
