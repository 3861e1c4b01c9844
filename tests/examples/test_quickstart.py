"""The notebook's cells run, one after the other, on a small checkpoint and without a network."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_tome import compat

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = "segformerpp_fast_demo"
NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def weights(repo, tmp_path) -> str:
    """The checkpoint that `make demo` left, or one with weights that tell pixels apart."""
    from mmseg_tome.checkpoints.loading import load
    from mmseg_tome.checkpoints.model import load_model
    from mmseg_tome.config import read_config_file

    for path in sorted((repo / "demo_output").rglob("iter_400.pth")):
        if any(key.startswith("decode_head.") for key in load(str(path))["state_dict"]):
            return str(path)  # not the one of pose
    model = load_model(read_config_file(CONFIG), None)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "0.pth")
    return str(tmp_path / "0.pth")


@pytest.fixture
def hub(tmp_path) -> str:
    """A Hugging Face SegFormer with random weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 40, 64], depths=[1, 1, 1, 1], decoder_hidden_size=16, num_labels=19
    )
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "hub")
    (tmp_path / "hub" / "preprocessor_config.json").write_text(
        json.dumps(
            dict(
                image_processor_type="SegformerImageProcessor",
                size=dict(height=128, width=256),
                do_resize=True,
            )
        )
    )
    return str(tmp_path / "hub")


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
def test_all_cells_run(cells, weights, hub, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    if importlib.util.find_spec("mmseg_tome.lab.demo") is None:  # nothing that renders a scene
        blocks = np.random.default_rng(0).integers(0, 255, (16, 32, 3), np.uint8)
        Image.fromarray(blocks).resize((512, 256)).save("street.png")
    space: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert set(space) - {"__builtins__"} == {"CONFIG", "WEIGHTS", "IMAGE", "HUB"}
                space.update(CONFIG=CONFIG, WEIGHTS=weights, HUB=hub)
    assert (tmp_path / "street.png").is_file()
    assert (tmp_path / "merging" / "street_merging.png").is_file()
    assert space["result"].labels.shape == Image.open("street.png").size[::-1]
    titles = [axis.get_title() for axis in space["axes"]]
    assert titles[0].endswith("100.0% as unmerged")
    assert any(not title.endswith("100.0% as unmerged") for title in titles[1:])
    assert "of the pixels" in capsys.readouterr().out
    space["plt"].close("all")


def test_the_notebook_is_small_and_has_no_outputs(cells):
    assert NOTEBOOK.stat().st_size < 20_000
    assert [
        cell["outputs"] for cell in cells if cell["cell_type"] == "code" and cell["outputs"]
    ] == []


def test_what_it_loads_is_in_the_zoo(cells):
    from mmseg_tome.predict.zoo import zoo_models

    pytest.importorskip("mmengine")
    parameters: dict = {}
    exec("".join(next(c for c in cells if c["cell_type"] == "code")["source"]), parameters)
    assert parameters["CONFIG"] in [model["Name"] for model in zoo_models()]
