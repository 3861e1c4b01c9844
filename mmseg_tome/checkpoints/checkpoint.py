"""What a checkpoint is before and after conversion."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from mmseg_tome.checkpoints.architecture import (
    BACKBONE,
    COUNTERS,
    Architecture,
    Head,
    check_whole,
    read_architecture,
    read_head,
)
from mmseg_tome.errors import ConversionError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was found.

    Attributes:
        state: Its parameters by name.
        meta: What mm code bases save beside them.
        config: Hugging Face's `config.json`.
        preprocessor: Hugging Face's `preprocessor_config.json`.
    """

    state: dict[str, Tensor]
    meta: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    preprocessor: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in this package's terms.

    Attributes:
        state: Parameters by our names, `backbone.` and a head's prefix included.
        origin: What it was converted from, in words.
        architecture: The backbone's.
        head: None if there is only a backbone.
        norm_eps: Epsilon of the backbone's layer norms.
        classes: Names of the classes, if known.
        palette: Their colours, RGB, if known.
        tome_cfg: How tokens merged when it was trained, if known.
        down_sample: Whether images were halved when it was trained.
        mean: What the images' channels are normalised by, RGB of 0 to 255.
        std: The same.
        input_size: Height and width that images are brought to, whatever their own; None if they
            keep theirs, or it is not known.
        dataset_meta: mmengine's description of the data set, as it was found.
        dropped: What of the source was left out because no output depends on it.
    """

    state: dict[str, Tensor]
    origin: str
    architecture: Architecture
    head: Head | None
    norm_eps: float
    classes: tuple[str, ...] | None = None
    palette: tuple[tuple[int, ...], ...] | None = None
    tome_cfg: str | list | None = None
    down_sample: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    input_size: tuple[int, int] | None = None
    dataset_meta: dict = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """`segmentation`, `pose` or `backbone`."""
        return self.head.task if self.head else "backbone"

    @property
    def parameters(self) -> int:
        """Number of parameters that training changes."""
        statistics = ("running_mean", "running_var", COUNTERS)
        return sum(v.numel() for k, v in self.state.items() if not k.endswith(statistics))

    def normalisation(self) -> tuple[list[float], list[float]] | None:
        """`mean` and `std` of each channel; None where those known are not of such images."""
        channels = self.architecture.in_channels
        if not len(self.mean) == len(self.std) == channels:
            return None
        return list(self.mean), list(self.std)

    def backbone(self) -> "Checkpoint":
        """The same without its head."""
        state = {key: value for key, value in self.state.items() if key.startswith(BACKBONE)}
        return replace(self, state=state, head=None, classes=None, palette=None, dataset_meta={})


def build_checkpoint(
    state: dict[str, Tensor],
    num_heads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    **known,
) -> Checkpoint:
    """Make a checkpoint of parameters by our names, after checking that they are a whole model.

    Args:
        state: The parameters.
        num_heads: As in `read_architecture`.
        strides: As in `read_architecture`.
        known: Further attributes of `Checkpoint`.

    Raises:
        ConversionError: Parameters are missing, too many, or of another shape, or there are more or
            fewer names of classes than classes.
    """
    architecture, head = read_architecture(state, num_heads, strides), read_head(state)
    check_whole(state, architecture, head)
    return check_classes(Checkpoint(state=state, architecture=architecture, head=head, **known))


def check_classes(checkpoint: Checkpoint) -> Checkpoint:
    """Return `checkpoint`; ConversionError if its class names are not as many as its classes."""
    head, classes = checkpoint.head, checkpoint.classes
    if head and head.task == "segmentation" and classes and len(classes) != head.outputs:
        raise ConversionError(
            f"it names {len(classes)} classes, its classifier predicts {head.outputs}"
        )
    return checkpoint
