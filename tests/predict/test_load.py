"""`mmseg_tome.load`: names, weights, presets and images of any kind; predictions are infer.py's."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_tome import compat
from mmseg_tome.errors import CheckpointError, UserError
from mmseg_tome.merging import TomeConfigError

pytestmark = pytest.mark.usefixtures("one_thread")

needs_mmseg = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
needs_mmpose = pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")


@pytest.fixture(scope="module")
def predictor(load_tiny):
    return load_tiny()


@pytest.fixture
def picture(hq_folder) -> Path:
    return hq_folder / "data/images/val/a.png"


def test_a_prediction_is_that_of_infer(predictor, hq_folder, picture, tmp_path):
    from mmseg_tome.cli.infer import main

    given = ["--config", str(hq_folder / "tiny.py"), "--checkpoint", str(hq_folder / "0.pth")]
    assert main([str(picture), *given, "--out", str(tmp_path), "--device", "cpu"]) == 0
    result = predictor.predict(picture)
    assert np.array_equal(result.labels, cv2.imread(str(tmp_path / "labels/a.png"), -1))
    assert len(np.unique(result.labels)) > 1
    result.save(tmp_path / "drawn.png")
    assert np.array_equal(np.asarray(result.draw()), np.asarray(Image.open(tmp_path / "drawn.png")))
    half = (result.palette[result.labels].astype(int) + np.array(Image.open(picture))) / 2
    assert np.abs(np.asarray(result.draw()) - half).max() <= 1


def test_what_a_result_says(predictor, picture):
    result = predictor.predict(picture)
    assert predictor.task == "segmentation"
    assert result.names == predictor.names
    assert result.names[0] == "Sky"
    assert result.palette.shape == (11, 3)
    assert sum(result.shares.values()) == pytest.approx(1, abs=1e-4)
    largest = np.bincount(result.labels.ravel()).argmax()
    assert next(iter(result.shares)) == result.names[largest]
    assert result.instances == []
    assert result.milliseconds > 0


def test_images_of_any_kind_are_the_same_image(predictor, picture):
    array, image = cv2.imread(str(picture)), Image.open(picture)
    expected = predictor.predict(picture).labels
    results = predictor.predict([str(picture), array, image, picture.with_name("b.png")])
    assert [np.array_equal(each.labels, expected) for each in results] == [True] * 3 + [False]
    assert np.array_equal(predictor.predict(image).labels, expected)
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.png", "nowhere.png does not exist"),
        (".", "is a folder"),
        (np.zeros((64, 64, 3)), "image 0 must be uint8 of 0 to 255, got float64"),
        (3, "image 0 must be a path, a PIL image or an array [H, W, 3], got <class 'int'>"),
        (np.zeros((2, 8, 8, 3), np.uint8), "got an array [2, 8, 8, 3]"),
        (np.zeros((8, 9, 4), np.uint8), "is [8, 9, 4], the model takes [H, W, 3], or grey [H, W]"),
    ],
)
def test_images_that_are_none(predictor, image, message):
    with pytest.raises(UserError) as caught:
        predictor.predict(image)
    assert message in str(caught.value)


def test_grey_arrays_are_taken_as_grey_files(predictor, picture, tmp_path):
    grey = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    expected = predictor.predict(tmp_path / "grey.png").labels
    assert len(np.unique(expected)) > 1
    for image in (grey, grey[..., None], Image.fromarray(grey)):
        assert np.array_equal(predictor.predict(image).labels, expected)


def test_addresses_are_read_as_infer_reads_them(predictor, server):
    size = predictor.predict(f"{server}/photo.png").draw().size
    assert size == predictor.predict(f"{server}/photo").draw().size == (60, 40)
    for name, message in {
        "gone.png": r"/gone\.png: it cannot be opened: .*404",
        "page": "/page: it is a web page",
        "live": "/live is a video or stream: tools/infer.py",
    }.items():
        with pytest.raises(UserError, match=message):
            predictor.predict(f"{server}/{name}")


def test_a_path_that_names_several_images(predictor, picture):
    with pytest.raises(UserError, match=r"\*\.png names 2 inputs: give images one by one"):
        predictor.predict(str(picture.with_name("*.png")))


def test_presets(predictor, hq_folder, picture):
    import mmseg_tome

    merged = predictor.predict(picture).labels
    other = mmseg_tome.load(hq_folder / "tiny.py", hq_folder / "0.pth", preset="none", device="cpu")
    plain = other.predict(picture).labels
    assert not np.array_equal(merged, plain)
    other.set_preset("hq")
    assert np.array_equal(other.predict(picture).labels, merged)
    other.set_preset("none")
    assert np.array_equal(other.predict(picture).labels, plain)
    with pytest.raises(TomeConfigError, match="unknown preset 'hqq'"):
        other.set_preset("hqq")
    with pytest.raises(TomeConfigError, match="unknown preset 'hqq'"):
        mmseg_tome.load(hq_folder / "tiny.py", hq_folder / "0.pth", preset="hqq", device="cpu")


def test_a_backbone_that_does_not_merge(hq_folder, tmp_path):
    import mmseg_tome

    config = tmp_path / "stock.py"
    config.write_text(
        f"_base_ = {str(hq_folder / 'tiny.py')!r}\n"
        "model = dict(backbone=dict(type='mmseg.MixVisionTransformer', _delete_=True))\n"
    )
    with pytest.raises(UserError, match=r"has no backbone that merges: preset='hq'"):
        mmseg_tome.load(config, hq_folder / "0.pth", preset="hq")


@needs_mmseg
def test_mistakes_end_in_a_line(hq_folder):
    import mmseg_tome

    def refusal(*args, **kwargs) -> str:
        with pytest.raises(UserError) as caught:
            mmseg_tome.load(*args, **kwargs)
        return str(caught.value)

    assert refusal("segformerpp_hq_coco_traned").endswith("is it segformerpp_hq_coco_trained?")
    assert "no weights are published for tiny" in refusal(hq_folder / "tiny.py")
    assert "checkpoint nowhere.pth does not exist" in refusal(hq_folder / "tiny.py", "nowhere.pth")
    assert "nowhere.pth does not exist" in refusal("nowhere.pth")
    assert "name or path of a config or checkpoint, not None" in refusal(None)
    assert "goes with a config" in refusal(hq_folder / "0.pth", "other.pth")
    assert "unknown device 'gpu'" in refusal(
        hq_folder / "tiny.py", hq_folder / "0.pth", device="gpu"
    )


@needs_mmseg
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("segformerpp_b0_hq_cityscapes", "segformer_mit-b0_8x1_1024x1024_160k_cityscapes_"),
        ("segformerpp_hq_cityscapes_trained", "i8fY8uXJrV"),
    ],
)
def test_published_weights_are_asked_for_by_name(name, file, tmp_path, monkeypatch):
    """Without a network the error says where to put the file, and a file there is read."""
    import mmseg_tome

    def fail(url, *args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    if name.endswith("trained"):  # a B5 takes seconds to build
        from mmseg_tome.predict.zoo import find_model

        config, url = find_model(name)
        assert config.name == "segformerpp_hq_cityscapes.py"
        assert url == f"https://mediastore.rz.uni-augsburg.de/get/{file}/"
        return
    with pytest.raises(CheckpointError) as caught:
        mmseg_tome.load(name, device="cpu")
    place = str(caught.value).partition("put it at ")[2].partition(", or name")[0]
    assert Path(place).name.startswith(file)
    assert Path(place).is_relative_to(tmp_path)


@needs_mmseg
def test_a_checkpoint_needs_no_config(tmp_path):
    """A Hugging Face folder; the output is that of transformers, resized as mmseg does."""
    import mmseg_tome

    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        num_labels=5,
        id2label={i: f"kind {i}" for i in range(5)},
        label2id={f"kind {i}": i for i in range(5)},
        hidden_sizes=[8, 16, 40, 64],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
        drop_path_rate=0.0,
    )
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path)
    size = dict(size=dict(height=64, width=96), do_resize=True)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(size))
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    ours = mmseg_tome.load(tmp_path, preset="none", device="cpu")
    result = ours.predict(Image.fromarray(image))
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    pixels = (torch.tensor(image).float() - torch.tensor(mean)) / torch.tensor(std)
    with torch.no_grad():
        logits = theirs(pixels.permute(2, 0, 1)[None]).logits
    logits = torch.nn.functional.interpolate(logits, (64, 96), mode="bilinear")
    same = (logits.argmax(1)[0].numpy() == result.labels).mean()
    assert same > 0.999  # ties
    assert result.names == [f"kind {i}" for i in range(5)]
    assert len(np.unique(result.labels)) > 1
    merged = mmseg_tome.load(tmp_path, preset="fast", device="cpu")
    assert not np.array_equal(merged.predict(Image.fromarray(image)).labels, result.labels)


@pytest.fixture(scope="module")
def pose(tmp_path_factory):
    if not compat.has("mmpose"):
        pytest.skip("needs mmpose")
    import mmseg_tome
    from mmseg_tome.checkpoints.model import load_model
    from mmseg_tome.config import read_config_file
    from mmseg_tome.config_names import find_config

    config = find_config("segformerpp_hq_demo_pose")
    model = load_model(read_config_file(config), None)
    path = tmp_path_factory.mktemp("pose") / "0.pth"
    torch.save(dict(state_dict=model.state_dict()), path)
    return mmseg_tome.load("segformerpp_hq_demo_pose", path, device="cpu")


def test_pose(pose):
    image = np.random.default_rng(0).integers(0, 255, (200, 150, 3), np.uint8)
    whole = pose.predict(image)
    assert pose.task == "pose"
    (person,) = whole.instances
    assert person["bbox"] == [0, 0, 150, 200]
    assert np.shape(person["keypoints"]) == (len(pose.names), 2)
    assert whole.labels is None
    assert whole.draw().size == (150, 200)

    boxes = [[10, 20, 50, 100], [60, 20, 50, 100]]
    first, second = pose.predict([image, image], boxes=[boxes, boxes[1:]])
    assert [each["bbox"] for each in first.instances] == boxes
    assert first.instances[1]["keypoints"] == second.instances[0]["keypoints"]
    assert pose.predict(image, boxes=np.zeros((0, 4))).instances == []
    assert pose.predict(image).instances == whole.instances


@pytest.mark.parametrize(
    ("boxes", "message"),
    [([1, 2, 3, 4], "must be [N, 4], got [4]"), ([[1, 2, 3]], "must be [N, 4], got [1, 3]")],
)
def test_boxes_that_are_none(pose, boxes, message):
    with pytest.raises(UserError) as caught:
        pose.predict(np.zeros((64, 64, 3), np.uint8), boxes=boxes)
    assert message in str(caught.value)


def test_boxes_go_with_pose(predictor, picture):
    with pytest.raises(UserError, match="boxes are for pose"):
        predictor.predict(picture, boxes=[[0, 0, 5, 5]])


def test_keypoints_are_drawn_with_any_numpy(recwarn):
    """MMPose gives the radius as an array of one, which numpy 2.5 does not take for a number."""
    pytest.importorskip("mmpose")
    from mmseg_tome.predict.pose import _Painter

    painter = _Painter(name="test")
    painter.set_image(np.zeros((32, 32, 3), np.uint8))
    painter.draw_circles((16, 16), radius=np.array([4]), face_colors=(0, 255, 0), alpha=1.0)
    assert painter.get_image()[16, 16].tolist() == [0, 255, 0]
    assert not [w for w in recwarn if "ndim" in str(w.message)]
