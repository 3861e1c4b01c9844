"""The images that a search sees, with labels or without, and what a plan costs on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import Compose

from mmseg_tome.config_datasets import with_one_test_dataset
from mmseg_tome.errors import DataError
from mmseg_tome.lab.sweep.images import Images, Samples, chosen_images, dataset_config, read_all
from mmseg_tome.lab.sweep.network import Network
from mmseg_tome.lab.sweep.scores import Evaluator, agreement
from mmseg_tome.lab.sweep.settings import NONE
from mmseg_tome.predict.inputs import check_complete, find_sources

from .space import Plan, setting


class FolderImages(Samples):
    """Images of a folder and its subfolders, without labels, as the config's test data is read.

    `scale` and `limit` are as for `Images`.

    Raises:
        UserError: The folder has no images, or none of them can be read.
    """

    def __init__(
        self, cfg: Config, folder: Path, scale: float | None = None, limit: int | None = None
    ) -> None:
        steps = dataset_config(with_one_test_dataset(cfg), scale)["pipeline"]
        pipeline = Compose([s for s in steps if not s["type"].endswith("LoadAnnotations")])
        paths = [s.path for s in find_sources([str(folder)]) if not s.is_video]

        def read(i: int) -> dict:
            check_complete(paths[i])
            return pipeline(dict(img_path=str(paths[i])))

        chosen = chosen_images(len(paths), limit)
        super().__init__(read_all(read, chosen, 4, lambda i: paths[i], skip=True))


def labelled(cfg: Config, images: Path, labels: Path, scale: float | None, **options) -> Images:
    """Images of a folder with their labels, named and read as by the config's test data set.

    `scale` and `options` are as for `Images`.

    Raises:
        DataError: There are none, or a label is missing.
    """
    cfg = with_one_test_dataset(cfg)
    dataset = cfg.test_dataloader.dataset
    dataset.data_root, dataset.ann_file = None, ""
    dataset.data_prefix = dict(img_path=str(images.absolute()), seg_map_path=str(labels.absolute()))
    try:
        return Images(cfg, scale, **options)
    except (FileNotFoundError, DataError) as error:
        raise DataError(f"images in {images} and labels in {labels} do not fit: {error}") from None


def split(number: int, held_out: float) -> tuple[list[int], list[int]]:
    """Indices to search on and indices to check on, both spread over all.

    Neighbours in a folder are often frames of one video: those that are checked on lie apart from
    each other, as far as a share of all allows.

    Args:
        number: How many images there are, at least 2.
        held_out: Share to check on.
    """
    checked = max(1, round(number * held_out))
    check = {(2 * i + 1) * number // (2 * checked) for i in range(checked)}
    return [i for i in range(number) if i not in check], sorted(check)


class AgreementLoss:
    """Percent of the pixels that merging gives another class."""

    unit = "% of pixels that change class"

    def __init__(self, network: Network, images: Samples, batch: int = 1) -> None:
        self.network, self.images, self.batch = network, images, batch
        self.unmerged = list(network.predict(images.batches(batch), NONE))

    def __call__(self, plan: Plan) -> dict[str, float]:
        """`loss`, and `agreement`, which is what is left of 100."""
        found = self.network.predict(self.images.batches(self.batch), setting(plan))
        same = agreement(found, self.unmerged)
        return dict(loss=100 - same, agreement=same)


class MIoULoss:
    """Points of mIoU that merging loses; below 0 where it gains."""

    unit = "points of mIoU"

    def __init__(self, network: Network, images: Images, batch: int = 1) -> None:
        self.evaluator = Evaluator(network, images, batch)
        self.before = self.evaluator.evaluate(NONE)["mIoU"]

    def __call__(self, plan: Plan) -> dict[str, float]:
        """`loss`, `agreement` and `mIoU`."""
        scores = self.evaluator.evaluate(setting(plan))
        loss = self.before - scores["mIoU"]
        return dict(loss=loss, agreement=scores["agreement"], mIoU=scores["mIoU"])


Loss = AgreementLoss | MIoULoss


def loss_on(images: Samples, chosen: Sequence[int], network: Network, batch: int) -> Loss:
    """The loss on some of the images: of mIoU if they have labels."""
    kind = MIoULoss if isinstance(images, Images) else AgreementLoss
    return kind(network, images.subset(chosen), batch)
