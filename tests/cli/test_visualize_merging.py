"""`tools/visualize_merging.py` on real images: its files, what is in them, and its refusals."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmseg_tome import compat

pytestmark = [
    pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg"),
    pytest.mark.usefixtures("one_thread"),
]
needs_mmpose = pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")

SMALL = "test_dataloader.dataset.pipeline.1.scale=(256,192)"
"""Resizing of the CamVid config's test pipeline, for speed."""


@pytest.fixture
def visualize(tool):
    """Run the command in this process; its exit code and its lines of errors and warnings."""

    def run(*args) -> tuple[int, list[str]]:
        code, _, lines = tool("visualize", *args, said=("error: ", "warning: "))
        return code, lines

    return run


@pytest.fixture
def mistake(visualize, tmp_path):
    """Run the tool and return the one line with which it refuses, before it draws anything."""

    def run(*args) -> str:
        code, lines = visualize(*args, "--out", tmp_path / "out")
        assert code == 2
        assert not (tmp_path / "out").exists()
        return lines[-1]

    return run


@pytest.fixture
def drawn(monkeypatch):
    """What figures are drawn of, by file name: the arguments of `draw_figure`."""
    from mmseg_tome.visualization import illustrator

    found, draw = {}, illustrator.draw_figure

    def keep(path, layout, panels, heading, legend, bar):
        found[heading[0].split(",")[0]] = (layout, panels, heading, legend)
        draw(path, layout, panels, heading, legend, bar)

    monkeypatch.setattr(illustrator, "draw_figure", keep)
    return found


@pytest.fixture(scope="module")
def images(street_scenes) -> Path:
    """Two street scenes, one of them in a subfolder."""
    return street_scenes("a.jpg", "sub/b.jpg")


@pytest.fixture
def segmenter(camvid_model) -> list[str]:
    """Arguments for the CamVid model at a small size, with random weights."""
    return [*camvid_model, "--cfg-options", SMALL]


@pytest.fixture
def estimator(repo) -> list[str]:
    """Arguments for the COCO model, with random weights."""
    return ["--config", str(repo / "configs" / "b0" / "segformerpp_b0_fast_coco.py")]


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def titles(panels) -> list[tuple[str, str]]:
    return [(panel.title, panel.detail) for panel in panels]


def labels(segmenter: list[str], image: Path, tome_cfg: str | None) -> np.ndarray:
    """mmseg's own prediction."""
    from mmengine.config import Config
    from mmseg.apis import inference_model, init_model

    cfg = Config.fromfile(segmenter[1])
    cfg.test_pipeline[1].scale = (256, 192)
    cfg.model.backbone.tome_cfg = tome_cfg
    model = init_model(cfg, device="cpu")
    model.load_state_dict(torch.load(segmenter[3], weights_only=True)["state_dict"])
    return inference_model(model, str(image)).pred_sem_seg.data[0].numpy()


def test_a_figure_of_each_image(visualize, drawn, images, segmenter, tmp_path):
    out = tmp_path / "out"
    assert visualize(images, *segmenter, "--out", out) == (0, [])
    name = images.name
    assert files(out) == [f"{name}/a_merging.png", f"{name}/sub/b_merging.png"]
    layout, panels, heading, legend = drawn["a.jpg"]
    assert (layout.rows, layout.cols) == (3, 4)
    # Pictures with 24 pixels between them and 32 beside, see figure.py.
    picture = cv2.imread(str(out / name / "a_merging.png"))
    assert picture.shape[1] == 4 * layout.size[1] + 3 * 24 + 2 * 32
    assert titles(panels)[4:8] == [
        ("stage 1: keys/values, 6x8 tokens", "20 of 48 kept (42 %), block 2 of 2"),
        ("stage 2: keys/values, 6x8 tokens", "20 of 48 kept (42 %), block 2 of 2"),
        ("stage 3: queries, 12x16 tokens", "39 of 192 kept (20 %), block 2 of 2"),
        ("stage 4: queries, 6x8 tokens", "10 of 48 kept (21 %), block 2 of 2"),
    ]
    assert {detail for _, detail in titles(panels)[8:]} == {
        "1 / size of a token's group, mean of 2 blocks"
    }
    plain, merged = (labels(segmenter, images / "a.jpg", preset) for preset in (None, "hq"))
    changed = f"{100 * (plain != merged).mean():.2f} %"
    assert (plain != merged).any()
    assert changed in heading[0]
    assert changed in panels[3].title
    assert "camvid.pth" in heading[1]
    assert "preset hq" in heading[1]
    assert len(legend) == len(np.unique([plain, merged]))
    # Figures of an earlier run are no inputs.
    code, (line,) = visualize(out, *segmenter, "--out", out)
    assert code == 2
    assert "figures of this tool alone" in line
    shutil.copy(images / "a.jpg", out / "c.jpg")
    assert visualize(out, *segmenter, "--out", out) == (0, [])
    assert set(drawn) == {"a.jpg", "b.jpg", "c.jpg"}


def test_presets_stages_and_blocks(visualize, drawn, images, segmenter, tmp_path):
    given = [images / "a.jpg", "--out", tmp_path, *segmenter]
    visualize(*given, "--preset", "n2d", "--stages", "1,3", "--block", "1")
    layout, panels, heading, _ = drawn["a.jpg"]
    assert (layout.rows, layout.cols) == (2, 4)
    assert "preset n2d" in heading[1]
    assert [title for title, _ in titles(panels)[4:]] == [
        "stage 1: queries, 48x64 tokens", "stage 1: kept apart",
        "stage 3: queries, 12x16 tokens", "stage 3: kept apart",
    ]  # fmt: skip
    assert panels[4].detail == "768 of 3072 kept (25 %), block 1 of 2"
    for heat in (panels[5].picture, panels[7].picture):
        assert len(np.unique(heat.reshape(-1, 3), axis=0)) == 1  # windows of 4 everywhere
    visualize(*given, "--tome-cfg", "hq-turbo", "--stages", "4")
    _, panels, _, _ = drawn["a.jpg"]
    assert len(panels) == 6


def test_a_stage_that_does_not_merge_is_told_of(visualize, drawn, images, segmenter, tmp_path):
    config = tmp_path / "own.py"
    config.write_text(
        f"_base_ = '{segmenter[1]}'\n"
        "stages = [dict(), dict(), dict(q=dict(mode='n2d'), kv=dict(mode='n2d')), dict()]\n"
        "model = dict(backbone=dict(tome_cfg=stages))\n"
    )
    given = ["--config", config, *segmenter[2:], "--out", tmp_path]
    assert visualize(images / "a.jpg", *given) == (0, [])
    _, panels, heading, _ = drawn["a.jpg"]
    assert "nothing merges in stages 1, 2 and 4" in heading[1]
    assert "tome_cfg of its own" in heading[1]
    assert [panel.title for panel in panels[4::2]] == [
        "stage 3: queries, 12x16 tokens",
        "stage 3: keys/values, 6x8 tokens",
    ]
    code, lines = visualize(images / "a.jpg", *given, "--stages", "1,2")
    assert code == 2
    assert "nothing merges in stage 1 and 2" in lines[0]


def test_a_wide_image_in_windows_with_random_weights(visualize, drawn, repo, tmp_path):
    path = tmp_path / "wide.png"
    wide = np.random.default_rng(0).integers(0, 256, (8, 16, 3)).astype(np.uint8)
    cv2.imwrite(str(path), wide.repeat(16, 0).repeat(16, 1))
    config = repo / "configs" / "b0" / "segformerpp_b0_hq_cityscapes.py"
    options = [
        "--cfg-options", "load_from=None", "test_dataloader.dataset.pipeline.1.scale=(256,128)",
        "model.test_cfg.crop_size=(128,128)", "model.test_cfg.stride=(96,96)",
    ]  # fmt: skip
    code, lines = visualize(path, "--config", config, "--out", tmp_path / "out", *options)
    assert code == 0
    assert lines == ["warning: no checkpoint: random weights are run"]
    layout, panels, heading, _ = drawn["wide.png"]
    assert (layout.rows, layout.cols) == (4, 3)
    assert "random weights" in heading[1]
    assert panels[6].detail == "13 of 64 kept (20 %) in each of 3 windows, block 2 of 2"


@needs_mmpose
def test_the_largest_person_of_a_pose_config(visualize, drawn, estimator, shared, tmp_path):
    persons = shared / "data" / "coco_sample"
    image, boxes = persons / "000000197388.jpg", persons / "test_coco.json"
    given = [*estimator, "--boxes", boxes, "--keypoint-threshold", 0, "--out", tmp_path]
    assert visualize(image, *given)[0] == 0
    layout, panels, heading, legend = drawn["000000197388.jpg"]
    assert (layout.rows, layout.cols) == (3, 4)
    assert layout.size[1] / layout.size[0] == pytest.approx(288 / 384, rel=0.01)
    assert "17 of 17 keypoints of person 4 of 5" in heading[0]
    assert legend[0][0] == "keypoint without merging"
    assert panels[6].title == "stage 3: queries, 24x18 tokens"
    # Groups in mean colours are as bright as what the network sees of this person.
    seen, groups = (panel.picture.astype(float) for panel in (panels[0], panels[6]))
    assert np.abs(seen.mean(axis=(0, 1)) - groups.mean(axis=(0, 1))).max() < 8
    assert np.corrcoef(seen.ravel(), groups.ravel())[0, 1] > 0.7
    (tmp_path / "boxes.json").write_text('[{"image_id": 197388, "bbox": [1,2,3,4], "score": 0.1}]')
    given[given.index(boxes)] = tmp_path / "boxes.json"
    code, lines = visualize(image, *given[:-1], tmp_path / "nobody")
    assert code == 1
    assert lines[-1].endswith("no box of a person lies in it")
    assert not (tmp_path / "nobody").exists()


def test_unreadable_and_small_images_are_named_and_the_others_drawn(
    visualize, images, segmenter, tmp_path
):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(images / "a.jpg", folder)
    (folder / "b.jpg").write_bytes((images / "a.jpg").read_bytes()[:9000])
    cv2.imwrite(str(folder / "c.png"), np.zeros((20, 900, 3), np.uint8))
    cv2.imwrite(str(folder / "d.png"), np.zeros((33, 256, 3), np.uint8))
    (folder / "e.mp4").touch()
    code, lines = visualize(folder, *segmenter, "--out", out)
    assert code == 1
    assert len(lines) == 3
    assert lines[0].startswith(f"error: {folder}/b.jpg: it cannot be read")
    assert "pixels is too small" in lines[1]
    assert lines[2].startswith(f"error: {folder}/d.png: nothing merges in it")
    assert files(out) == ["in/a_merging.png"]


def test_nothing_half_written_is_left(visualize, images, segmenter, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    out = tmp_path / "out"
    out.mkdir()
    (out / "a_merging.png").write_text("of an earlier run")

    def fill_the_disk(self, path, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fill_the_disk)
    code, lines = visualize(images / "a.jpg", *segmenter, "--out", out)
    assert code == 2
    assert f"cannot write {out}/a_merging.png: No space left" in lines[-1]
    assert files(out) == ["a_merging.png"]
    assert (out / "a_merging.png").read_text() == "of an earlier run"


def test_configs_that_merge_nothing(mistake, images, repo, tmp_path):
    config = repo / "configs" / "camvid" / "segformerpp_b0_none_camvid.py"
    line = mistake(images, "--config", config)
    assert "merges nothing: choose a preset by --preset, one of hq, fast, n2d, quality, " in line
    assert "unknown preset 'hp'" in mistake(images, "--config", config, "--preset", "hp")
    other = tmp_path / "resnet.py"
    other.write_text("model = dict(backbone=dict(type='ResNet'))")
    assert "merges nothing" in mistake(images, "--config", other)
    line = mistake(images, "--config", other, "--preset", "hq")
    assert "--preset is for the backbones of mmseg_tome, the config's is ResNet" in line


def test_a_stock_config_takes_a_preset(visualize, drawn, images, segmenter, tmp_path):
    config = tmp_path / "stock.py"
    config.write_text(
        f"_base_ = '{segmenter[1].replace('_hq_', '_none_')}'\n"
        "model = dict(backbone=dict(type='MixVisionTransformer'))\n"
    )
    given = ["--config", config, *segmenter[2:], "--preset", "fast", "--out", tmp_path]
    assert visualize(images / "a.jpg", *given) == (0, [])
    assert len(drawn["a.jpg"][1]) == 12


def test_joined_test_data(visualize, images, segmenter, camvid_config, join_test_data, tmp_path):
    config = join_test_data(camvid_config, tmp_path / "joined.py")
    small = segmenter[-1].replace("dataset.", "dataset.datasets.0.")
    call = ("--config", config, *segmenter[2:5], small)
    assert visualize(images / "a.jpg", *call, "--out", tmp_path / "out") == (0, [])
    assert files(tmp_path / "out") == ["a_merging.png"]


def test_wrong_inputs_and_places(mistake, visualize, images, segmenter, tmp_path):
    assert "no.jpg does not exist" in mistake("no.jpg", *segmenter)
    (tmp_path / "a.mp4").touch()
    assert "a.mp4 is a video: only images" in mistake(images, tmp_path / "a.mp4", *segmenter)
    assert "no image" in mistake(tmp_path, *segmenter)
    file = tmp_path / "file"
    file.touch()
    code, (line,) = visualize(images, *segmenter, "--out", file)
    assert code == 2
    assert "is a file, not a folder" in line


def test_wrong_options(mistake, images, segmenter, tmp_path):
    given = [images, *segmenter]
    assert "no stage 7, only 1 to 4" in mistake(*given, "--stages", "3,7")
    assert "no block 3 in stage 1" in mistake(*given, "--block", "3")
    assert "unknown" in mistake(*given, "--device", "gpu")
    given[4] = tmp_path / "missing.pth"
    assert "missing.pth does not exist" in mistake(*given)


def test_options_are_checked(capsys):
    from mmseg_tome.cli import visualize as tool

    for wrong in (["--stages", "a"], ["--block", "middle"]):
        with pytest.raises(SystemExit) as stop:
            tool.parse_args(["a.jpg", "--config", "c.py", "--out", "o", *wrong])
        assert stop.value.code == 2
    assert "--block" in capsys.readouterr().err


def test_as_a_program_from_anywhere(run_tool, images, segmenter, tmp_path):
    printed = run_tool(
        "visualize_merging.py", images / "a.jpg", *segmenter, "--out", "out", cwd=tmp_path
    )
    assert "1 figure drawn, 0 inputs failed: out" in printed
    assert files(tmp_path / "out") == ["a_merging.png"]
