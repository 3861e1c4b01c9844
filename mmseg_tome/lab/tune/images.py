"""The images that a search sees: a folder without labels, a folder with them, or a data set."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import Compose

from mmseg_tome.config_datasets import with_one_test_dataset
from mmseg_tome.errors import DataError
from mmseg_tome.lab.sweep.images import Images, Samples, chosen_images, dataset_config, read_all
from mmseg_tome.predict.inputs import check_complete, find_sources


class FolderImages(Samples):
    """Images of a folder and its subfolders, without labels, as the config's test data is read.

    Args:
        cfg: Has a `test_dataloader` whose pipeline is used.
        folder: Where they are.
        scale: Size of the input over that of the image file; None resizes as the config says.
        limit: Take every n-th image, so that no more than this many are left; None takes all.
        workers: Threads that read.

    Raises:
        UserError: The folder has no images, or none of them can be read.
    """

    def __init__(
        self,
        cfg: Config,
        folder: Path,
        scale: float | None = None,
        limit: int | None = None,
        workers: int = 4,
    ) -> None:
        steps = dataset_config(with_one_test_dataset(cfg), scale)["pipeline"]
        pipeline = Compose([s for s in steps if not s["type"].endswith("LoadAnnotations")])
        paths = [s.path for s in find_sources([str(folder)]) if not s.is_video]

        def read(i: int) -> dict:
            check_complete(paths[i])
            return pipeline(dict(img_path=str(paths[i])))

        chosen = chosen_images(len(paths), limit)
        super().__init__(read_all(read, chosen, workers, lambda i: paths[i], skip=True))


def labelled(cfg: Config, images: Path, labels: Path, scale: float | None, **options) -> Images:
    """Images of a folder with their labels, named and read as by the config's test data set.

    Args:
        cfg: Has a `test_dataloader`.
        images: Folder of images.
        labels: Folder of their labels, beside which images are found by name.
        scale: As for `FolderImages`.
        options: Others of `Images`.

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
