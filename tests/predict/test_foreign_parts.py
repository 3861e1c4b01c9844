"""A file that names code to run is refused before anything of it is built."""

import copy

import pytest

from mmseg_tome import compat
from mmseg_tome.errors import UserError
from mmseg_tome.predict.foreign_parts import check_parts

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

PARTS = dict(
    default_scope="mmseg",
    model=dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor", size=[64, 96]),
        test_cfg=dict(mode="whole"),
        decode_head=dict(num_classes=3, align_corners=False),
    ),
    test_dataloader=dict(
        batch_size=1,
        dataset=dict(
            type="mmseg_tome.CamVidDataset",
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="mmseg.Resize", scale=[96, 64]),
                dict(type="mmcv.LoadAnnotations"),
                dict(type="PackSegInputs"),
            ],
        ),
    ),
)


def changed(*place, **values) -> dict:
    parts = copy.deepcopy(PARTS)
    node = parts
    for key in place:
        node = node[key]
    node.update(values)
    return parts


def test_what_an_export_writes_passes():
    check_parts(PARTS, "a.onnx")


STEP = ("test_dataloader", "dataset", "pipeline", 1)


@pytest.mark.parametrize(
    "name",
    [
        "subprocess.Popen",
        "os.system",
        "builtins.exec",
        "mmengine.load",  # of the package, but registered nowhere
        "mmengine.fileio.load",
        "mmseg_tome.compat.os.system",
        "os",
        "",
        ".Resize",
        "evil.Resize",
        "Resize ",
        ["Resize"],
        None,
        7,
    ],
)
def test_names_that_are_not_registered_are_refused(name):
    places = [STEP, ("model",), ("model", "data_preprocessor"), ("test_dataloader", "dataset")]
    for place in places:
        with pytest.raises(UserError, match=r"^a.onnx names .*, which is nothing that the mm"):
            check_parts(changed(*place, type=name), "a.onnx")


def test_a_scope_is_one_of_mms():
    with pytest.raises(UserError, match="names the scope 'evil'"):
        check_parts(changed(default_scope="evil"), "a.onnx")
    with pytest.raises(UserError, match=r"names 'evil\.mmseg\.Resize'"):
        check_parts(changed(*STEP, _scope_="evil"), "a.onnx")


@pytest.mark.parametrize(
    "parts",
    [
        changed(custom_imports=dict(imports=["evil"])),
        changed("model", neck=dict(type="FPN")),
        changed("model", init_cfg=dict(type="Pretrained", checkpoint="evil.pth")),
        changed("test_dataloader", collate_fn=dict(type="default_collate")),
        changed("test_dataloader", "dataset", metainfo="evil.py"),
        changed(model=[]),
        changed(test_dataloader=3),
        changed("test_dataloader", dataset=[]),
        {},
    ],
)
def test_other_parts_are_refused(parts):
    with pytest.raises(UserError, match=r"a.onnx was not written by tools/export.py"):
        check_parts(parts, "a.onnx")


def test_types_deep_inside_are_seen():
    augment = dict(type="TestTimeAug", transforms=[[dict(type="os.system", command="true")]])
    parts = copy.deepcopy(PARTS)
    parts["test_dataloader"]["dataset"]["pipeline"].append(augment)
    with pytest.raises(UserError, match=r"names 'os\.system'"):
        check_parts(parts, "a.onnx")
