"""Formats are told apart by their keys, and what is none of them is described."""

import subprocess
import sys

import pytest
import torch

from mmseg_tome.checkpoints import FORMATS, ConversionError, Source, recognise
from mmseg_tome.checkpoints.architecture import Architecture, Head
from mmseg_tome.checkpoints.formats import Format, register_format
from mmseg_tome.checkpoints.formats.huggingface import RENAMING as HUGGING_FACE
from mmseg_tome.checkpoints.formats.nvlabs import RENAMING as NVLABS

ARCHITECTURE = Architecture(3, 8, (1, 2, 1, 1))
OURS = [
    *dict(ARCHITECTURE.shapes()),
    *dict(Head("segmentation", True, 16, 4).shapes(ARCHITECTURE.channels)),
]


def source(keys) -> Source:
    return Source(dict.fromkeys(keys, torch.zeros(1)))


@pytest.mark.parametrize(("renaming", "name"), [(HUGGING_FACE, "huggingface"), (NVLABS, "nvlabs")])
def test_renaming_is_invertible(renaming, name):
    single = [key for key in OURS if "in_proj" not in key]
    theirs = [renaming.to_theirs(key) for key in single]
    assert len(set(theirs)) == len(single)
    assert [renaming.to_ours(key) for key in theirs] == single
    assert recognise(source(theirs)).name == name
    assert [n for n, fmt in FORMATS.items() if not fmt.unexpected(theirs)] == [name]


def test_ours():
    assert recognise(source(OURS)).name == "mm"


def test_nearest_format_and_what_it_does_not_know():
    keys = [HUGGING_FACE.to_theirs(key) for key in OURS if "in_proj" not in key]
    with pytest.raises(ConversionError) as error:
        recognise(source([*keys, "adapter.a", "adapter.b"]))
    message = str(error.value)
    assert "nearest is that of Hugging Face transformers" in message
    assert f"2 of {len(keys) + 2} keys (adapter.a, adapter.b)" in message
    assert "\n" not in message


def test_something_else_entirely():
    with pytest.raises(ConversionError, match="none of its 2 keys is one of SegFormer") as error:
        recognise(source(["conv1.weight", "fc.bias"]))
    assert all(fmt.title in str(error.value) for fmt in FORMATS.values())


def test_a_classifier_alone_is_no_checkpoint():
    with pytest.raises(ConversionError):
        recognise(source(["head.weight", "head.bias"]))


def test_name_of_a_format_is_taken_once():
    with pytest.raises(ValueError, match="'nvlabs' is taken by NVlabs"):
        register_format(type("Again", (Format,), dict(name="nvlabs")))


def test_without_the_mm_stack(repo):
    """All but `load_model` is of use to those who have torch alone."""
    code = (
        "import sys, pkgutil, importlib, mmseg_tome.checkpoints as package\n"
        "for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "    found.name.endswith('.model') or importlib.import_module(found.name)\n"
        "print(sorted({'mmengine', 'mmcv', 'mmseg', 'mmpose', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
