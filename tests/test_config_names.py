"""Configs by name, from any folder."""

import pytest

from mmseg_tome.config import read_config_file
from mmseg_tome.config_names import (
    config_files,
    find_config,
    matching_configs,
    nearest_configs,
    with_public_weights,
)
from mmseg_tome.errors import UserError
from mmseg_tome.files import CONFIGS


@pytest.mark.parametrize(
    "text",
    [
        "segformerpp_b0_fast_ade20k",
        "segformerpp_b0_fast_ade20k.py",
        "b0/segformerpp_b0_fast_ade20k",
        "configs/b0/segformerpp_b0_fast_ade20k.py",
    ],
)
def test_a_config_by_its_name(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(text) == str(CONFIGS / "b0" / "segformerpp_b0_fast_ade20k.py")


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "segformerpp_fast_cityscapes.py").write_text("model = dict()")
    assert find_config("segformerpp_fast_cityscapes.py") == "segformerpp_fast_cityscapes.py"


def test_names_are_found_by_pattern():
    assert "segformerpp_fast_cityscapes" in matching_configs("fast_city")
    found = matching_configs("b0/*_fast_*")
    assert found == sorted(found)
    assert all(name.startswith("b0/") and "_fast_" in name for name in found)
    assert not any("_base_" in name for name in config_files())
    assert len({name.rpartition("/")[2] for name in config_files()}) == len(config_files())


def test_a_misspelt_name_is_answered_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("segformerpp_fats_cityscapes") == "segformerpp_fats_cityscapes"
    assert "segformerpp_fast_cityscapes" in nearest_configs("segformerpp_fats_cityscapes")
    assert nearest_configs("mine.py") == ""
    with pytest.raises(UserError, match=r"does not exist; is it .*segformerpp_hq_jbd"):
        read_config_file("segformerpp_hq_jdb.py")


def test_a_config_without_weights_is_answered_with_one_that_has_them():
    for name, published in {
        "b0/segformerpp_b0_hq_coco": "segformerpp_hq_coco",
        "configs/b0/segformerpp_b0_fast_jbd.py": "segformerpp_fast_jbd",
        "pvt_s_n2d_coco": "segformerpp_n2d_coco",
    }.items():
        assert with_public_weights(name) == f"; {published} has public weights"
    for name in ("camvid/segformerpp_b0_hq_camvid", "demo/segformerpp_hq_demo_pose", "mine.py", ""):
        assert with_public_weights(name) == ""
    for name in config_files():
        if answer := with_public_weights(name):
            published = answer.removeprefix("; ").partition(" ")[0]
            assert "://" in read_config_file(published).load_from
