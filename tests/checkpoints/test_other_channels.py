"""Models of grey and of four-channel images: from Hugging Face, back, and with a config."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmseg_tome import compat
from mmseg_tome.checkpoints import ConversionError, convert
from mmseg_tome.checkpoints.config_file import make_config_text
from mmseg_tome.checkpoints.loading import load_from_local
from mmseg_tome.checkpoints.reading import read_source
from mmseg_tome.checkpoints.writing import write, write_hugging_face

transformers = pytest.importorskip("transformers")

SIZE = (64, 96)


@pytest.fixture
def peer(randomise, request):
    config = transformers.SegformerConfig(
        num_channels=request.param,
        hidden_sizes=[8, 16, 40, 64],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 5, 8],
        decoder_hidden_size=16,
        num_labels=3,
    )
    return randomise(transformers.SegformerForSemanticSegmentation(config))


@pytest.fixture
def folder(peer, tmp_path):
    peer.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def read(path):
    return convert(read_source(str(path), load_from_local))


def say(folder, **preprocessor):
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
@pytest.mark.parametrize("peer", [1, 4], indirect=True)
@pytest.mark.parametrize("known", [False, True])
def test_a_converted_model_runs_on_its_images(repo, peer, folder, tmp_path, known):
    from mmseg_tome.predict.inputs import Reader, find_sources
    from mmseg_tome.predict.segmentation import SegmentationPredictor

    channels = peer.config.num_channels
    if known:
        say(folder, do_resize=False, image_mean=[0.5] * channels, image_std=0.25)
    checkpoint = read(folder)
    write(checkpoint, tmp_path / "ours.pth")
    text = make_config_text(
        checkpoint, tmp_path / "ours.pth", tmp_path / "ours.py", repo / "configs"
    )
    (tmp_path / "ours.py").write_text(text)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, channels), np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image)
    cfg = Config.fromfile(tmp_path / "ours.py")
    cfg.test_dataloader.dataset.pipeline[1].scale = SIZE[::-1]
    predictor = SegmentationPredictor(cfg, str(tmp_path / "ours.pth"), "cpu")
    (source,) = find_sources([str(tmp_path / "image.png")])
    (prediction,) = predictor.predict(list(Reader(cfg).read(source)))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    if known:
        pixels = (pixels / 255 - 0.5) / 0.25
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(peer(pixels).logits, SIZE, mode="bilinear")
    assert (prediction.labels == logits[0].argmax(0).numpy()).mean() > 0.999
    assert len(np.unique(prediction.labels)) > 1


@pytest.mark.parametrize("peer", [1, 4], indirect=True)
def test_back_to_the_same_bits(peer, folder, tmp_path):
    say(folder, do_resize=False, image_mean=0.5, image_std=[0.25])
    write_hugging_face(read(folder), tmp_path / "back")
    again = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "back")
    assert again.config.num_channels == peer.config.num_channels
    for key, value in peer.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    said = json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())
    assert said["image_mean"] == pytest.approx([0.5] * peer.config.num_channels)


@pytest.mark.parametrize("peer", [4], indirect=True)
def test_what_is_not_known_is_not_made_up(peer, folder, tmp_path):
    write_hugging_face(read(folder), tmp_path / "back")
    said = json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())
    assert (said["do_rescale"], said["do_normalize"]) == (False, False)


@pytest.mark.parametrize("peer", [4], indirect=True)
def test_a_data_set_of_colours_does_not_fit(repo, peer, folder, tmp_path):
    files = tmp_path / "ours.pth", tmp_path / "ours.py"
    with pytest.raises(
        ConversionError, match=r"camvid would read images of 3 .* the model takes 4"
    ):
        make_config_text(read(folder), *files, repo / "configs", "camvid")
