import json

import pytest

from mmseg_tome.errors import UserError
from mmseg_tome.predict.boxes import Boxes


@pytest.fixture
def boxes(tmp_path):
    def read(content, **options) -> Boxes:
        path = tmp_path / "boxes.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return Boxes(path, **options)

    return read


def test_detections(boxes, tmp_path):
    found = boxes(
        [
            dict(image_id=785, bbox=[1, 2, 3, 4], score=0.9),
            dict(image_id=785, bbox=[1, 2, 3, 5], score=0.2),
            dict(image_id=785, bbox=[1, 2, 0, 5], score=0.9),
            dict(file_name="sub/a.jpg", bbox=[5, 6, 7, 8]),
            dict(file_name="b.jpg", bbox=[5, 6, 7, 8], score=0.1),
        ]
    )
    assert found.of(tmp_path / "000000000785.jpg").tolist() == [pytest.approx([1, 2, 3, 4, 0.9])]
    assert found.of(tmp_path / "sub" / "a.jpg").tolist() == [[5, 6, 7, 8, 1]]
    assert found.of(tmp_path / "a.jpg") is None
    assert found.of(tmp_path / "b.jpg").shape == (0, 5)  # known, with nobody in it


def test_annotations(boxes, tmp_path):
    content = dict(
        images=[dict(id=3, file_name="val/a.jpg"), dict(id=4, file_name="val/b.jpg")],
        annotations=[
            dict(image_id=3, bbox=[1, 2, 3, 4]),
            dict(image_id=3, bbox=[1, 2, 30, 40], iscrowd=1),
            dict(image_id=4, bbox=[5, 6, 7, 8]),
        ],
    )
    found = boxes(content)
    assert found.of(tmp_path / "val" / "a.jpg").tolist() == [[1, 2, 3, 4, 1]]
    assert found.of(tmp_path / "val" / "c.jpg") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ({}, "neither a list of detections nor images"),
        (3, "neither a list of detections nor images"),
        ([dict(bbox=[1, 2, 3, 4])], "entry 0 has no image"),
        ([dict(image_id=1, bbox=None)], "entry 0 has no image, or no box"),
        ([dict(image_id=1, bbox=[1, 2, 3])], r"entry 0 has \[1.0, 2.0, 3.0\] for a box"),
        ([7], "entry 0 has no image"),
    ],
)
def test_other_formats_are_refused(boxes, content, message):
    with pytest.raises(UserError, match=message):
        boxes(content)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.json: No such file"):
        Boxes(tmp_path / "nowhere.json")
