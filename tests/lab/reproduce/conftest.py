"""A tiny Cityscapes by name, a checkpoint and a place for what is measured."""

from pathlib import Path

import pytest
import torch


@pytest.fixture
def data(tmp_path) -> Path:
    """Empty files: two training images and one validation image, with labels."""
    for split, count in (("train", 2), ("val", 1)):
        for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelTrainIds")):
            folder = tmp_path / "cityscapes" / kind / split / "ulm"
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"ulm_{number}_{ending}.png").touch()
    return tmp_path / "cityscapes"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "my.pth"
    torch.save(dict(state_dict={}), path)
    return path


@pytest.fixture
def work_dir(tmp_path) -> Path:
    return tmp_path / "work"
