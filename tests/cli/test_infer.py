"""`tools/infer.py` on real images: what mm's own functions give, and what a user reads."""

import functools
import io
import itertools
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmseg_tome import compat

pytestmark = [
    pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg"),
    pytest.mark.usefixtures("one_thread"),
]
needs_mmpose = pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")

SMALL = "test_dataloader.dataset.pipeline.1.scale=(128,96)"
"""Resizing of the CamVid config's test pipeline, for speed."""


@pytest.fixture
def infer(tool):
    """Run the command in this process; its exit code and its lines that name errors."""

    def run(*args) -> tuple[int, list[str]]:
        code, _, errors = tool("infer", *args)
        return code, errors

    return run


@pytest.fixture
def warned(monkeypatch) -> list[str]:
    """What the tool says besides errors."""
    from mmseg_tome.cli import infer

    found = []
    monkeypatch.setattr(infer, "say", lambda *lines: found.extend(filter(None, lines)))
    return found


@pytest.fixture
def mistake(infer, tmp_path):
    """Run the tool and return the one line with which it refuses, before it makes anything."""

    def run(*args) -> str:
        out = () if "--out" in args else ("--out", tmp_path / "out")
        code, errors = infer(*args, *out)
        assert code == 2
        assert len(errors) == 1
        assert not (tmp_path / "out").exists()
        return errors[0]

    return run


@pytest.fixture(scope="module")
def images(street_scenes) -> Path:
    """Three street scenes, one of them in a subfolder."""
    return street_scenes("a.jpg", "b.jpg", "sub/a.jpg")


@pytest.fixture
def segmenter(camvid_model) -> list[str]:
    """Arguments for the CamVid model at a small size, with random weights."""
    return [*camvid_model, "--cfg-options", SMALL]


@pytest.fixture(scope="module")
def estimator(repo, make_tiny) -> list[str]:
    """Arguments for a tiny model of COCO's keypoints."""
    return make_tiny(Config.fromfile(repo / "configs" / "b0" / "segformerpp_b0_fast_coco.py"))


@pytest.fixture(scope="module")
def persons(shared) -> Path:
    return shared / "data" / "coco_sample"


def results(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def mmseg_labels(segmenter: list[str], image: str | np.ndarray) -> np.ndarray:
    """mmseg's own prediction for an image file or array."""
    from mmseg.apis import inference_model, init_model

    cfg = Config.fromfile(segmenter[1])
    cfg.test_pipeline[1].scale = (128, 96)
    model = init_model(cfg, device="cpu")
    model.load_state_dict(torch.load(segmenter[3], weights_only=True)["state_dict"])
    return inference_model(model, image).pred_sem_seg.data[0].numpy()


def test_label_maps_are_mmsegs(infer, images, segmenter, tmp_path):
    out = tmp_path / "out"
    assert infer(images, *segmenter, "--out", out) == (0, [])
    name = images.name
    assert files(out) == [
        *(f"labels/{name}/{image}.png" for image in ("a", "b", "sub/a")),
        *(f"overlays/{name}/{image}.jpg" for image in ("a", "b", "sub/a")),
        "results.json",
    ]
    found = results(out)
    assert found["task"] == "segmentation"
    assert found["classes"][:2] == ["Sky", "Building"]
    assert len(found["palette"]) == 11
    for entry in found["images"]:
        labels = cv2.imread(str(out / entry["labels"]), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (entry["height"], entry["width"]) == (360, 480)
        assert np.array_equal(labels, mmseg_labels(segmenter, entry["path"]))
        shares = {c: float((labels == i).mean()) for i, c in enumerate(found["classes"])}
        expected = {name: share for name, share in shares.items() if share}
        assert entry["classes"] == pytest.approx(expected, abs=1e-6)
        assert len(expected) > 1
        assert entry["ms"] > 0


def test_images_run_together_as_they_do_alone(infer, images, segmenter, tmp_path):
    found = []
    for size in (1, 2):
        out = tmp_path / str(size)
        infer(images, *segmenter, "--batch-size", size, "--out", out)
        maps = [out / entry["labels"] for entry in results(out)["images"]]
        found.append(np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in maps]))
    assert found[0].shape == (3, 360, 480)
    assert (found[0] == found[1]).mean() > 0.98  # rounding may decide a merging differently


def test_overlays_blend_the_image_with_the_classes_colours(infer, images, segmenter, tmp_path):
    path = images / "a.jpg"
    image = cv2.imread(str(path)).astype(int)
    painted = {}
    for opacity in (0, 1):
        out = tmp_path / str(opacity)
        infer(path, *segmenter, "--opacity", opacity, "--out", out)
        painted[opacity] = cv2.imread(str(out / "overlays" / "a.jpg")).astype(int)
    labels = cv2.imread(str(out / "labels" / "a.png"), cv2.IMREAD_UNCHANGED)
    colours = np.array(results(out)["palette"])[labels][..., ::-1]
    # JPEG blurs a little.
    assert np.abs(painted[0] - image).mean() < 3
    assert np.abs(painted[1] - colours).mean() < 6

    out = tmp_path / "named"
    infer(path, *segmenter, "--opacity", 1, "--with-labels", "--out", out)
    named = cv2.imread(str(out / "overlays" / "a.jpg")).astype(int)
    changed = np.abs(named - painted[1]).max(axis=2) > 40
    assert 0 < changed.mean() < 0.5


def test_the_figure_of_what_merges(infer, images, segmenter, tmp_path):
    out, clip = tmp_path / "out", tmp_path / "clip.avi"
    write_video(clip, [cv2.imread(str(images / "a.jpg"))])
    given = [images / "a.jpg", clip, *segmenter, "--out", out]
    assert infer(*given, "--show-merging") == (0, [])
    plain, frame = results(out)["images"]
    assert plain["merging"] == "merging/a.png"
    assert "merging" not in frame
    assert files(out / "merging") == ["a.png"]
    assert min(cv2.imread(str(out / "merging" / "a.png")).shape[:2]) > 400
    labels = cv2.imread(str(out / plain["labels"]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels, mmseg_labels(segmenter, plain["path"]))


@needs_mmpose
def test_the_figure_of_the_largest_person(infer, persons, estimator, tmp_path):
    """Boxes run together, but for the figure, which has to tell them apart."""
    out, image = tmp_path / "out", persons / "000000197388.jpg"
    boxes = ["--boxes", persons / "test_coco.json", "--batch-size", 16]
    assert infer(image, *estimator, *boxes, "--show-merging", "--out", out) == (0, [])
    (entry,) = results(out)["images"]
    assert len(entry["instances"]) > 2
    assert files(out / "merging") == [f"{image.stem}.png"]


@pytest.mark.parametrize(
    ("given", "configured", "wanted"),
    [
        ([], {}, {}),
        ([], dict(dtype="bfloat16", launch="eager"), dict(launch="eager", dtype="bfloat16")),
        (["--dtype", "float32"], dict(dtype="bfloat16"), dict(dtype="float32")),
        (["--launch", "graphs"], dict(launch="eager"), dict(launch="graphs")),
    ],
)
def test_a_gpu_runs_the_network_as_told(monkeypatch, warned, given, configured, wanted):
    from mmseg_tome.cli import infer as tool
    from mmseg_tome.runtime import acceleration

    def accelerate(model, **options):
        assert model == "network"
        return SimpleNamespace(summary=repr(options))

    monkeypatch.setattr(acceleration, "accelerate", accelerate)
    args = tool.parse_args(["a.jpg", "--config", "c.py", "--out", "out", *given])
    hook = dict(type="mmseg_tome.FastInferenceHook", **configured)
    cfg = Config(dict(model={}, default_hooks=dict(fast_inference=hook)))
    tool.speed_up(args, cfg, SimpleNamespace(model="network"), gpu=True)
    assert warned == [repr(wanted)]


def test_switches_without_effect_say_so(infer, images, segmenter, tmp_path, warned):
    none = [arg.replace("_hq_", "_none_") for arg in segmenter]
    given = [images / "a.jpg", *none, "--out", tmp_path, "--device", "cpu"]
    assert infer(*given, "--show-merging", "--launch", "graphs") == (0, [])
    assert warned == [
        "warning: --launch graphs has no effect: there is no GPU",
        "warning: --show-merging has no effect: the config merges nothing, see tome_cfg",
    ]


def test_half_precision(infer, images, segmenter, tmp_path, warned):
    found = []
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / dtype
        given = [images / "a.jpg", *segmenter, "--out", out, "--device", "cpu", "--dtype", dtype]
        assert infer(*given) == (0, [])
        found.append(cv2.imread(str(out / "labels" / "a.png"), cv2.IMREAD_UNCHANGED))
    (line,) = warned  # of the second run
    assert "bfloat16" in line
    assert 0.5 < (found[0] == found[1]).mean() < 1


def write_video(path: Path, images: list[np.ndarray]) -> None:
    size = images[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 7, size)
    for image in images:
        writer.write(image)
    writer.release()


def read_video(path: Path) -> list[np.ndarray]:
    video, frames = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        frames.append(read[1])
    return frames


def test_files_folders_and_videos_mixed(infer, images, segmenter, tmp_path):
    out, clip = tmp_path / "out", tmp_path / "clip.avi"
    write_video(clip, [cv2.imread(str(images / name)) for name in ("a.jpg", "b.jpg", "a.jpg")])
    # Also between options.
    assert infer(images / "b.jpg", *segmenter, "--out", out, clip, images / "sub") == (0, [])
    found = results(out)["images"]
    assert [(Path(e["path"]).name, e.get("frame")) for e in found] == [
        ("b.jpg", None), ("clip.avi", 0), ("clip.avi", 1), ("clip.avi", 2), ("a.jpg", None)
    ]  # fmt: skip
    assert found[4]["overlay"] == "overlays/sub/a.jpg"
    assert found[3]["labels"] == "labels/clip.mp4/000002.png"
    for entry, frame in zip(found[1:4], read_video(clip), strict=True):
        labels = cv2.imread(str(out / entry["labels"]), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(labels, mmseg_labels(segmenter, frame))
    overlay = out / found[1]["overlay"]
    assert [frame.shape for frame in read_video(overlay)] == [(360, 480, 3)] * 3
    assert cv2.VideoCapture(str(overlay)).get(cv2.CAP_PROP_FPS) == 7


class Camera:
    """A capture of street scenes, of which there is one at a time."""

    def __init__(self, images: Path, frames: int):
        self.scenes = [cv2.imread(str(images / name)) for name in ("a.jpg", "b.jpg")]
        self.left = frames
        self.wanted = threading.Semaphore(1)

    def get(self, what):
        return 30.0

    def read(self):
        self.wanted.acquire()
        self.left -= 1
        return (True, self.scenes[self.left % 2]) if self.left >= 0 else (False, None)

    def release(self):
        pass


@pytest.fixture
def camera(images, monkeypatch):
    """Camera 0 gives so many frames, one after the network took the one before, and then no more.

    A function in the arguments is called with the number of frames that were taken.
    """
    from mmseg_tome.predict import results, streams

    real, add, cameras = cv2.VideoCapture, results.ResultsWriter.add, []

    def make(frames: int, after=lambda taken: None) -> None:
        taken = itertools.count(1)
        cameras.append(Camera(images, frames))

        def open_one(address):
            return real(address) if address != 0 else cameras[-1]

        def add_and_go_on(*args):
            add(*args)
            after(next(taken))
            cameras[-1].wanted.release()

        monkeypatch.setattr(cv2, "VideoCapture", open_one)
        monkeypatch.setattr(results.ResultsWriter, "add", add_and_go_on)
        monkeypatch.setattr(streams, "SECONDS", 0)
        monkeypatch.setattr(streams, "TRIES", 0)

    yield make
    for each in cameras:  # a reader that waits would keep the process from ending
        each.left = 0
        each.wanted.release(9)


def test_a_camera_until_it_ends(infer, camera, segmenter, images, tmp_path):
    camera(3)
    assert infer("0", *segmenter, "--out", tmp_path) == (0, [])
    found = results(tmp_path)
    assert [(e["path"], e["frame"]) for e in found["images"]] == [("0", 0), ("0", 1), ("0", 2)]
    assert len(read_video(tmp_path / "overlays/camera_0.mp4")) == 3
    labels = cv2.imread(str(tmp_path / found["images"][1]["labels"]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels, mmseg_labels(segmenter, str(images / "b.jpg")))


def test_a_camera_for_some_frames(infer, camera, segmenter, images, tmp_path):
    camera(9)
    clip = tmp_path / "clip.avi"
    write_video(clip, [cv2.imread(str(images / "a.jpg"))] * 3)
    given = ["0", clip, images / "a.jpg", *segmenter, "--frames", 2, "--out", tmp_path / "out"]
    assert infer(*given) == (0, [])
    assert [e.get("frame") for e in results(tmp_path / "out")["images"]] == [0, 1, 0, 1, None]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_a_camera_gave(infer, camera, segmenter, images, tmp_path, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    camera(9, after=lambda taken: os.kill(os.getpid(), number) if taken == 2 else None)
    given = ["0", images / "a.jpg", *segmenter, "--out", tmp_path]
    assert infer(*given) == (0, [])
    assert [entry["frame"] for entry in results(tmp_path)["images"]] == [0, 1]
    assert len(read_video(tmp_path / "overlays/camera_0.mp4")) == 2
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_camera_that_is_not_there(infer, camera, segmenter, images, tmp_path):
    camera(0)
    code, errors = infer("0", images / "a.jpg", *segmenter, "--out", tmp_path)
    assert code == 1
    assert errors == ["error: 0: it cannot be opened, or gives no frames"]
    assert len(results(tmp_path)["images"]) == 1


def test_an_image_on_stdin_and_an_animation(infer, images, segmenter, tmp_path, monkeypatch):
    content = io.BytesIO((images / "a.jpg").read_bytes())
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=content, isatty=lambda: False))
    frames = [Image.open(images / name) for name in ("a.jpg", "b.jpg")]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:], duration=50)
    out = tmp_path / "out"
    assert infer("-", tmp_path / "b.gif", *segmenter, "--out", out) == (0, [])
    assert files(out) == [
        *("labels/b.mp4/000000.png", "labels/b.mp4/000001.png", "labels/stdin.png"),
        *("overlays/b.mp4", "overlays/stdin.jpg", "results.json"),
    ]
    assert cv2.VideoCapture(str(out / "overlays/b.mp4")).get(cv2.CAP_PROP_FPS) == 20
    labels = cv2.imread(str(out / "labels/stdin.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels, mmseg_labels(segmenter, str(images / "a.jpg")))


def test_overlays_in_a_window(infer, images, segmenter, tmp_path, monkeypatch):
    """Which saves nothing by itself, and ends when the user has seen enough."""
    from mmseg_tome.predict import window

    shown = []

    class Window:
        def show(self, picture, milliseconds):
            shown.append((picture.shape, milliseconds))
            return len(shown) < 2

        def close(self):
            shown.append("closed")

    monkeypatch.setattr(window, "Window", Window)
    monkeypatch.chdir(tmp_path)
    assert infer(images, *segmenter, "--show") == (0, [])
    assert shown == [((360, 480, 3), 300)] * 2 + ["closed"]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()


def test_a_window_without_a_display(infer, images, segmenter, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    code, errors = infer(images, *segmenter, "--show")
    assert code == 2
    assert errors == ["error: --show needs a display: neither DISPLAY nor WAYLAND_DISPLAY is set"]


@needs_mmpose
def test_keypoints_are_mmposes(infer, persons, estimator, tmp_path):
    from mmpose.apis import inference_topdown, init_model

    out, boxes = tmp_path / "out", persons / "test_coco.json"
    assert infer(persons, *estimator, "--boxes", boxes, "--out", out) == (0, [])
    found = results(out)
    assert found["task"] == "pose"
    assert found["keypoint_names"][:2] == ["nose", "left_eye"]
    annotations = json.loads(boxes.read_text())["annotations"]
    model = init_model(Config.fromfile(estimator[1]), device="cpu")
    model.load_state_dict(torch.load(estimator[3], weights_only=True)["state_dict"])
    assert len(found["images"]) == 4
    for entry in found["images"]:
        number = int(Path(entry["path"]).stem)
        mine = [a["bbox"] for a in annotations if a["image_id"] == number]
        assert [person["bbox"] for person in entry["instances"]] == pytest.approx(np.array(mine))
        expected = inference_topdown(
            model, entry["path"], np.array(mine, np.float32), bbox_format="xywh"
        )
        assert len(entry["instances"]) == len(expected) > 0
        for person, sample in zip(entry["instances"], expected, strict=True):
            theirs = sample.pred_instances
            assert person["keypoints"] == pytest.approx(theirs.keypoints[0], abs=0.01)
            assert person["keypoint_scores"] == pytest.approx(theirs.keypoint_scores[0], abs=1e-4)
        image = cv2.imread(entry["path"])
        overlay = cv2.imread(str(out / entry["overlay"]))
        assert overlay.shape == image.shape
        assert np.abs(overlay.astype(int) - image).max() > 100


@needs_mmpose
def test_boxes_run_together_as_they_do_alone(infer, persons, estimator, tmp_path):
    found = []
    for size in (2, 16):
        out, boxes = tmp_path / str(size), persons / "test_coco.json"
        args = ["--boxes", boxes, "--batch-size", size, "--out", out]
        infer(persons / "000000197388.jpg", *estimator, *args)
        (entry,) = results(out)["images"]
        found.append(np.array([person["keypoints"] for person in entry["instances"]]))
    assert len(found[0]) > 2
    assert (np.abs(found[0] - found[1]) < 0.1).mean() > 0.95


@needs_mmpose
def test_without_boxes_a_person_fills_the_image(infer, persons, estimator, tmp_path):
    out = tmp_path / "out"
    infer(persons / "000000000785.jpg", *estimator, "--out", out)
    (entry,) = results(out)["images"]
    (person,) = entry["instances"]
    assert person["bbox"] == [0, 0, 640, 425]
    assert np.shape(person["keypoints"]) == (17, 2)


@needs_mmpose
def test_an_image_without_boxes_has_nobody_in_it(infer, persons, estimator, tmp_path):
    out, boxes = tmp_path / "out", tmp_path / "boxes.json"
    boxes.write_text(json.dumps([dict(image_id=785, bbox=[1, 2, 300, 400], score=0.1)]))
    given = [persons / "000000000785.jpg", persons / "000000040083.jpg", "--boxes", boxes]
    assert infer(*given, *estimator, "--out", out) == (0, [])
    assert [entry["instances"] for entry in results(out)["images"]] == [[], []]
    infer(*given, *estimator, "--out", out, "--box-threshold", 0.05)
    assert [len(entry["instances"]) for entry in results(out)["images"]] == [1, 0]


def test_unreadable_images_are_named_and_the_others_done(infer, images, segmenter, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(images, folder)
    (folder / "b.jpg").write_bytes((images / "b.jpg").read_bytes()[:9000])
    (folder / "c.mp4").touch()
    code, errors = infer(folder, *segmenter, "--out", out)
    assert code == 1
    assert len(errors) == 2
    assert errors[0].startswith(f"error: {folder}/b.jpg: it cannot be read: image file is trunc")
    assert errors[1].startswith(f"error: {folder}/c.mp4: it is not a video")
    found = results(out)
    assert [Path(entry["path"]).name for entry in found["images"]] == ["a.jpg", "a.jpg"]
    assert [Path(entry["path"]).name for entry in found["failed"]] == ["b.jpg", "c.mp4"]


def test_images_too_small_for_the_network(infer, images, segmenter, tmp_path):
    """As one is after resizing, and as its side is that shrinks to nothing."""
    out = tmp_path / "out"
    for height, message in ((20, "pixels is too small"), (1, "resize")):
        path = tmp_path / f"{height}.png"
        cv2.imwrite(str(path), np.zeros((height, 900, 3), np.uint8))
        code, errors = infer(path, *segmenter, "--out", out)
        assert code == 1
        assert len(errors) == 1
        assert message in errors[0]
        assert not out.exists()
    out.mkdir()
    (out / "results.json").write_text("of an earlier run")
    infer(path, *segmenter, "--out", out)
    assert files(out) == ["results.json"]
    assert (out / "results.json").read_text() == "of an earlier run"


def test_an_overlay_too_wide_for_a_jpeg_does_not_end_the_run(infer, images, segmenter, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.full((64, 65600, 3), 80, np.uint8))
    shutil.copy(images / "b.jpg", folder)
    size = "test_dataloader.dataset.pipeline.1.scale=(128,64)"
    keep = "test_dataloader.dataset.pipeline.1.keep_ratio=False"
    code, errors = infer(folder, *segmenter[:-1], size, keep, "--out", out)
    assert (code, errors) == (0, [])
    overlays = [entry["overlay"] for entry in results(out)["images"]]
    assert overlays == ["overlays/in/a.png", "overlays/in/b.jpg"]
    assert cv2.imread(str(out / overlays[0])).shape == (64, 65600, 3)


def test_joined_test_data(infer, images, segmenter, camvid_config, join_test_data, tmp_path):
    config = join_test_data(camvid_config, tmp_path / "joined.py")
    small = segmenter[-1].replace("dataset.", "dataset.datasets.0.")
    call = ("--config", config, *segmenter[2:5], small)
    assert infer(images, *call, "--out", tmp_path / "joined") == (0, [])
    assert infer(images, *segmenter, "--out", tmp_path / "alone") == (0, [])
    for entry in results(tmp_path / "alone")["images"]:
        one, two = (cv2.imread(str(tmp_path / f / entry["labels"])) for f in ("joined", "alone"))
        assert np.array_equal(one, two)


def test_wrong_inputs(mistake, images, segmenter, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").touch()
    line = mistake(tmp_path / "empty", tmp_path / "a.txt", "no.jpg", images, *segmenter)
    assert "empty holds no image or video" in line
    assert "a.txt is of no known image or video type" in line
    assert "no.jpg does not exist" in line


def test_wrong_places(mistake, images, segmenter, tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in mistake(images, *segmenter, "--out", file)
    assert "cannot write" in mistake(images, *segmenter, "--out", file / "out")
    assert "nowhere.py does not exist" in mistake(images, "--config", "nowhere.py")


def test_wrong_devices(mistake, images, segmenter):
    count = torch.cuda.device_count()
    line = mistake(images, *segmenter, "--device", f"cuda:{count}")
    assert f"torch sees {count} CUDA devices" in line
    assert "unknown" in mistake(images, *segmenter, "--device", "gpu")


class RunsCode:
    def __reduce__(self):
        return (os.mkdir, ("was_run",))


def test_wrong_checkpoints(mistake, images, segmenter, repo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, path = segmenter[:2], tmp_path / "wrong.pth"
    given = [images, *config, "--checkpoint", path]
    assert "no checkpoint: name one" in mistake(images, *config)
    line = mistake("b0/segformerpp_b0_hq_coco", images)
    assert line.endswith("set load_from in the config; segformerpp_hq_coco has public weights")
    assert "wrong.pth does not exist" in mistake(*given)
    state = torch.load(segmenter[3], weights_only=True)["state_dict"]
    torch.save(dict(state_dict=dict(list(state.items())[1:])), path)
    assert "wrong.pth does not fit the model: it lacks 1 of" in mistake(*given)
    torch.save([1], path)
    assert "wrong.pth is not a checkpoint" in mistake(*given)
    torch.save(dict(state_dict=RunsCode()), path)
    line = mistake(*given)
    assert "mkdir" in line
    assert "--trust-checkpoint" in line
    assert not (tmp_path / "was_run").exists()


@needs_mmpose
def test_wrong_checkpoints_for_pose(mistake, persons, estimator, tmp_path):
    path = tmp_path / "wrong.pth"
    given = [persons, *estimator[:2], "--checkpoint", path]
    state = torch.load(estimator[3], weights_only=True)["state_dict"]
    state["head.final_layer.bias"] = torch.zeros(20)
    torch.save(state, path)
    assert "wrong.pth does not fit the model: 1 parameters have other shapes" in mistake(*given)
    state["head.final_layer.weight"] = torch.zeros(20, *state["head.final_layer.weight"].shape[1:])
    torch.save(state, path)
    line = mistake(*given, "--cfg-options", "model.head.out_channels=20")
    assert "the model has 20 keypoints, its data set 17" in line
    torch.save(dict(state_dict=RunsCode()), path)
    assert "--trust-checkpoint" in mistake(*given)
    assert not Path("was_run").exists()


@needs_mmpose
def test_wrong_boxes(mistake, images, persons, segmenter, estimator, tmp_path):
    boxes = persons / "test_coco.json"
    assert "--boxes is for pose" in mistake(images, *segmenter, "--boxes", boxes)
    assert "lists none of the images" in mistake(images, *estimator, "--boxes", boxes)
    assert "No such file" in mistake(persons, *estimator, "--boxes", "nowhere.json")
    (tmp_path / "a.mp4").touch()
    line = mistake(persons, tmp_path / "a.mp4", *estimator, "--boxes", boxes)
    assert "--boxes is for images" in line


def test_the_configs_checkpoint_and_a_trusted_one(infer, images, segmenter, tmp_path):
    path, out = tmp_path / "trusted.pth", tmp_path / "out"
    state = torch.load(segmenter[3], weights_only=True)["state_dict"]
    meta = dict(args=functools.partial(print), dataset_meta=dict(classes=[*"abcdefghijk"]))
    torch.save(dict(state_dict=state, meta=meta), path)
    given = [images / "a.jpg", *segmenter[:2], "--out", out, "--cfg-options", f"load_from={path}"]
    code, (line,) = infer(*given, SMALL)
    assert code == 2
    assert "functools.partial" in line
    assert infer(*given, SMALL, "--trust-checkpoint") == (0, [])
    found = results(out)
    assert found["checkpoint"] == str(path)
    assert found["classes"] == [*"abcdefghijk"]  # the checkpoint knows what it was trained on
    assert len(found["palette"]) == 11


def test_as_a_program_from_anywhere(run_tool, images, segmenter, tmp_path):
    printed = run_tool("infer.py", images, *segmenter, "--out", "out", cwd=tmp_path)
    assert "3 images done, 0 inputs failed: out/results.json" in printed
    assert len(results(tmp_path / "out")["images"]) == 3


def test_options_are_checked(capsys):
    from mmseg_tome.cli import infer as tool

    for option in (["--opacity", "2"], ["--batch-size", "0"], ["--frames", "0"]):
        with pytest.raises(SystemExit):
            tool.parse_args(["a.jpg", "--config", "c.py", "--out", "out", *option])
        assert "must be" in capsys.readouterr().err
    for options in ([], ["--show", "--show-merging"]):
        with pytest.raises(SystemExit):
            tool.parse_args(["a.jpg", "--config", "c.py", *options])
        assert "are required: --out" in capsys.readouterr().err
    assert "mmseg_tome.cli.infer" in sys.modules


def test_slots_are_kept_between_the_frames_of_a_video(infer, images, segmenter, tmp_path):
    clip = tmp_path / "clip.avi"
    write_video(clip, [cv2.imread(str(images / name)) for name in ("a.jpg", "b.jpg", "a.jpg")])
    found = []
    for every in (None, 1, 2):
        out = tmp_path / str(every)
        given = ["--reuse-frames", every] if every else []
        assert infer(clip, images / "b.jpg", *segmenter, *given, "--out", out) == (0, [])
        maps = [out / entry["labels"] for entry in results(out)["images"]]
        found.append([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in maps])
    plain, one, two = found
    assert all(map(np.array_equal, plain, one))
    assert list(map(np.array_equal, plain, two)) == [True, False, True, True]


def test_slots_that_cannot_be_kept(mistake, images, segmenter):
    given = [images, *segmenter, "--reuse-frames", 2]
    assert "leave out --batch-size" in mistake(*given, "--batch-size", 2)
    none = [str(arg).replace("_hq_", "_none_") for arg in given]
    assert "merges nothing" in mistake(*none)
    assert "goes with --config" in mistake(images, "--model", "a.onnx", "--reuse-frames", 2)
