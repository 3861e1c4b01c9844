"""CamVid with the 11 classes of SegNet."""

import os.path as osp

from mmengine import fileio
from mmseg.datasets import BaseSegDataset

from mmseg_tome.registry import DATASETS

IMG_SUFFIXES = (".png", ".jpg", ".jpeg")  # the public release; common smaller copies

HOW_TO_GET = (
    "To get CamVid: download 701_StillsRaw_full.zip and LabeledApproved_full.zip from "
    "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/, unpack them side by side, and run "
    "`python tools/convert_camvid.py <that folder> data/camvid`."
)


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid (Brostow et al., 2009): street scenes of Cambridge, 11 classes, 255 = void.

    Layout, as `tools/convert_camvid.py` writes it: `images/{train,val,test}/<name>.png` and, for
    each image, `labels/{train,val,test}/<name>.png`, a grey PNG of the image's size with class
    indices in the order of `METAINFO["classes"]`. Native frames are 960x720 (w, h).

    Args:
        img_suffix: Suffix of the image files; None finds it in the image folder.
        seg_map_suffix: Suffix of the label files.
        **kwargs: As for `mmseg.datasets.BaseSegDataset`. Without `data_prefix["seg_map_path"]`
            the images are read without labels.

    Raises:
        FileNotFoundError: A folder is missing or empty, or an image or a label in it is.
        ValueError: The image folder mixes suffixes and `img_suffix` is not given.
    """

    # Colours: the release's own colour of the class that names the group.
    METAINFO = dict(
        classes=(
            "Sky",
            "Building",
            "Pole",
            "Road",
            "Pavement",
            "Tree",
            "SignSymbol",
            "Fence",
            "Car",
            "Pedestrian",
            "Bicyclist",
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [0, 0, 192],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    )

    def __init__(
        self, img_suffix: str | None = None, seg_map_suffix: str = ".png", **kwargs
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images with their labels; `img_path`, `seg_map_path` and mmseg's own fields."""
        images = self._list(self.data_prefix.get("img_path"), "images")
        if self.img_suffix is None:
            self.img_suffix = self._find_suffix(images)
        data_list = super().load_data_list()
        if not data_list:
            raise FileNotFoundError(
                f"CamVid: no {self.img_suffix} images in {self.data_prefix['img_path']}. "
                f"{HOW_TO_GET}"
            )
        # Once, at the start: a file missing later would end a training from within a worker.
        self._check(data_list, "img_path", images, "image")
        if labels := self.data_prefix.get("seg_map_path"):
            self._check(data_list, "seg_map_path", self._list(labels, "labels"), "label")
        return data_list

    def _list(self, folder: str | None, what: str) -> set[str]:
        """Files below `folder`, relative to it."""
        if not folder or not fileio.isdir(folder, backend_args=self.backend_args):
            raise FileNotFoundError(f"CamVid: folder of {what} not found: {folder}. {HOW_TO_GET}")
        return set(
            fileio.list_dir_or_file(
                folder, list_dir=False, recursive=True, backend_args=self.backend_args
            )
        )

    def _find_suffix(self, images: set[str]) -> str:
        folder = self.data_prefix["img_path"]
        found = {osp.splitext(name)[1] for name in images}
        found = [suffix for suffix in found if suffix.lower() in IMG_SUFFIXES]
        if not found:
            raise FileNotFoundError(
                f"CamVid: no images ({', '.join(IMG_SUFFIXES)}) in {folder}. {HOW_TO_GET}"
            )
        if len(found) > 1:
            raise ValueError(
                f"CamVid: {folder} mixes {', '.join(sorted(found))}; say which with `img_suffix`."
            )
        return found[0]

    def _check(self, data_list: list[dict], key: str, present: set[str], what: str) -> None:
        folder = self.data_prefix[key]
        wanted = [osp.relpath(info[key], folder) for info in data_list]
        missing = [name for name in wanted if name not in present]
        if missing:
            raise FileNotFoundError(
                f"CamVid: {len(missing)} of {len(wanted)} {what}s are not in {folder}, "
                f"the first is {missing[0]}. {HOW_TO_GET}"
            )
