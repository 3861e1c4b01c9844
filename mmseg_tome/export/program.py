"""Tracing a network once, for either kind of file."""

import torch
from torch import Tensor
from torch._dynamo.exc import UserError as ConstraintError
from torch.export import Dim, ExportedProgram, export

from mmseg_tome.errors import UserError, first_line
from mmseg_tome.export.network import Network
from mmseg_tome.export.tracing import SCORES_MIB, plain_onnx, portable


@torch.no_grad()
def trace(
    network: Network,
    size: tuple[int, int],
    dynamic_batch: bool = False,
    for_onnx: bool = True,
    scores_mib: int = SCORES_MIB,
    executorch: bool = False,
) -> ExportedProgram:
    """The network as a graph of torch operators for images of `size`, (H, W).

    Args:
        network: What to trace.
        size: In pixels.
        dynamic_batch: Take any number of images; otherwise one.
        for_onnx: In operators that ONNX has.
        scores_mib: For ONNX: attention scores of a sample that may exist at a time, in MiB.
        executorch: For ONNX: in the forms that ExecuTorch is fast at, see `plain_onnx`.

    Raises:
        ImageSizeError: The size is too small for the network.
    """
    images = torch.zeros(2 if dynamic_batch else 1, network.channels, *size)
    network(images)  # refuses what does not fit, and fills the caches of index maps
    shapes: dict[str, dict[int, Dim]] | None = None
    if dynamic_batch:
        shapes = dict(images={0: Dim("batch", min=1, max=4096)})
    with plain_onnx(scores_mib, executorch=executorch) if for_onnx else portable():
        return export(network, (images,), dynamic_shapes=shapes, strict=False)


LARGEST_SIDE = 16384
SIDES = (64, 128, 256, 512)
"""Smallest sides that are tried for any size."""


@torch.no_grad()
def trace_any_size(
    network: Network, dynamic_batch: bool = False, for_onnx: bool = True
) -> tuple[ExportedProgram, int]:
    """The network as a graph for images of any size, see `trace`.

    Below some size a graph would have to be another one: where a grid is smaller than a cell,
    nothing merges.

    Returns:
        The graph, and the smallest height and width that it is right for.

    Raises:
        UserError: There is no such graph of this network.
    """
    reason = ""
    for least in SIDES:
        # Two sizes that are no multiples of anything, and that no side of a map is 1 or equal at.
        size = 2 * least + 35, 2 * least + 103
        images = torch.zeros(2 if dynamic_batch else 1, network.channels, *size)
        sides = {i: Dim(name, min=least, max=LARGEST_SIDE) for i, name in ((2, "H"), (3, "W"))}
        batch = {0: Dim("batch", min=1, max=4096)} if dynamic_batch else {}
        context = plain_onnx(any_size=True) if for_onnx else portable(any_size=True)
        try:
            with context:
                shapes = dict(images=batch | sides)
                return export(network, (images,), dynamic_shapes=shapes, strict=False), least
        except (ConstraintError, ValueError) as error:  # torch's, of a guard on the size
            reason = first_line(error)
    raise UserError(f"--dynamic-size: this network cannot be traced for any size: {reason}")


def random_images(size: tuple[int, int], count: int = 1, channels: int = 3) -> Tensor:
    """Normalised noise, `[count, channels, H, W]`, the same on every call."""
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(0))


def smooth_images(size: tuple[int, int], count: int = 1, channels: int = 3) -> Tensor:
    """As photographs are: smooth at large, with edges, noise, and areas of one colour."""
    generator = torch.Generator().manual_seed(1)

    def octave(side: int) -> Tensor:
        cells = torch.randn(count, channels, side, side, generator=generator)
        return torch.nn.functional.interpolate(cells, size, mode="bilinear")

    images = sum(octave(side) / (level + 1) for level, side in enumerate((3, 9, 27)))
    images = images + 0.02 * torch.randn(images.shape, generator=generator)
    height, width = size
    images[:, :, height // 2 :, : width // 3] = 0.5  # a wall
    return images.contiguous()
