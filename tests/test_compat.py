"""Stand-ins for missing parts of the mm stack, and the messages about the stack itself."""

import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from mmseg_tome import compat
from mmseg_tome.config import read_config_file


def distributions(*names):
    return lambda: [SimpleNamespace(metadata={"Name": name}) for name in names]


@pytest.mark.parametrize(
    ("names", "stack"),
    [
        (["onedl-mmcv", "onedl_mmengine", "torch"], "onedl"),
        (["mmcv-lite", "mmengine"], "openmmlab"),
        (["mmcv", "mmengine", "mmsegmentation"], "openmmlab"),
    ],
)
def test_the_stack_is_recognised(monkeypatch, names, stack):
    monkeypatch.setattr(metadata, "distributions", distributions(*names))
    assert compat.installed_stack() == stack


def test_no_stack_says_how_to_install_one(monkeypatch):
    monkeypatch.setattr(metadata, "distributions", distributions("torch"))
    with pytest.raises(compat.MMStackError, match=r"none is installed: pip install .*\[onedl\]"):
        compat.installed_stack()


def test_two_stacks_are_named(monkeypatch):
    both = distributions("onedl-mmcv", "mmengine")
    monkeypatch.setattr(metadata, "distributions", both)
    with pytest.raises(compat.MMStackError, match=r"onedl-mmcv \(onedl\) and mmengine \(openmml"):
        compat.installed_stack()


def test_a_stand_in_fails_only_when_used_and_is_gone_afterwards():
    with compat.stand_ins({"absent.ops": ("point_sample",)}) as missing:
        assert missing == ["absent.ops"]
        from absent.ops import point_sample

        with pytest.raises(ModuleNotFoundError, match=r"absent.ops.other is not available"):
            from absent.ops import other  # noqa: F401
    assert "absent.ops" not in sys.modules
    with pytest.raises(ImportError, match=r"absent.ops.point_sample was used but cannot be"):
        point_sample(1, 2)
    assert point_sample | None  # annotations may name it


def test_what_is_installed_is_used():
    import json

    with compat.stand_ins({"json": ("loads",)}) as missing:
        assert missing == []
        assert sys.modules["json"] is json


def test_an_import_that_fails_in_any_way_is_stood_in_for(tmp_path, monkeypatch):
    """A torchvision that does not match torch raises RuntimeError."""
    (tmp_path / "broken_vision.py").write_text("raise RuntimeError('operator does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with compat.stand_ins({"broken_vision": ("ToPILImage",)}) as missing:
        assert missing == ["broken_vision"]
        from broken_vision import ToPILImage
    with pytest.raises(ImportError, match="RuntimeError: operator does not exist"):
        ToPILImage()


def test_nothing_lasting_is_left_in_sys_modules():
    code = (
        "import sys, mmseg_tome.compat as c\n"
        "assert c.has('mmseg')\n"
        "stand_ins = [n for n, m in sys.modules.items() if 'Stand-in' in (m.__doc__ or '')]\n"
        "assert not stand_ins, stand_ins\n"
        "import mmseg.models\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_importing_the_package_imports_nothing_else():
    code = "import sys, mmseg_tome; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_merging_needs_torch_alone():
    code = (
        "import sys\n"
        "sys.modules.update(mmcv=None, mmengine=None, mmseg=None)\n"  # importing these fails
        "from mmseg_tome.merging import BipartiteMatching, parse_tome_cfg\n"
        "parse_tome_cfg('hq')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("package", "base"),
    [
        ("mmseg", "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"),
        ("mmseg", "mmseg::_base_/models/segformer_mit-b0.py"),
        (
            "mmpose",
            "mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py",
        ),
    ],
)
def test_configs_of_the_mm_packages_are_found_on_both_stacks(package, base, tmp_path):
    if not compat.has(package):
        pytest.skip(f"needs {package}")
    (tmp_path / "mine.py").write_text(f"_base_ = {base!r}\nmodel = dict(extra=1)")
    cfg = read_config_file(str(tmp_path / "mine.py"))
    assert cfg.model.extra == 1
    assert cfg.model.backbone.type in ("MixVisionTransformer", "ResNet")


@pytest.mark.parametrize(
    "line",
    [
        "train.py config.py",
        "test.py config.py",
        "infer.py photo.jpg --model exported.onnx --out out",
        "visualize_merging.py photo.jpg --config config.py --out out",
        "export.py --config config.py --out out.onnx",
        "benchmark_export.py --config config.py --size 64x64",
    ],
)
def test_a_tool_without_an_mm_stack_says_so_in_one_line(line, repo, tmp_path):
    tool, *args = line.split()
    hidden = "import sys; sys.modules.update(dict.fromkeys(['mmengine', 'mmcv', 'mmseg']))"
    none = "from importlib import metadata; metadata.distributions = lambda: []"
    (tmp_path / "sitecustomize.py").write_text(f"{hidden}\n{none}\n")
    path = f"{tmp_path}:{repo}"
    done = subprocess.run(
        [sys.executable, str(repo / "tools" / tool), *args],
        env={"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: mmseg_tome's models need an mm stack")
