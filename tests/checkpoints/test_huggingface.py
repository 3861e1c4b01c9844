"""Hugging Face's models: the same logits here and back there."""

import json

import pytest
import torch

from mmseg_tome.checkpoints import ConversionError, convert
from mmseg_tome.checkpoints.formats.huggingface import RENAMING, RENAMING_5
from mmseg_tome.checkpoints.loading import load_from_local
from mmseg_tome.checkpoints.reading import read_source
from mmseg_tome.checkpoints.writing import write, write_hugging_face

transformers = pytest.importorskip("transformers")

NAMES = {0: "sky", 1: "sea", 2: "land"}
TINY = dict(
    hidden_sizes=[8, 16, 40, 64],
    depths=[1, 2, 1, 1],
    num_attention_heads=[1, 2, 5, 8],
    decoder_hidden_size=16,
    id2label=NAMES,
)


@pytest.fixture
def peer(randomise):
    config = transformers.SegformerConfig(**TINY)
    return randomise(transformers.SegformerForSemanticSegmentation(config))


@pytest.fixture
def folder(peer, tmp_path):
    peer.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def read(path):
    return convert(read_source(str(path), load_from_local))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_same_logits(peer, folder, ours, logits, assert_same, image, suffix):
    checkpoint = read(folder)
    assert checkpoint.classes == tuple(NAMES.values())
    with torch.no_grad():
        expected = peer(image).logits
    assert_same(logits(ours(checkpoint, suffix), image), expected)


def test_back_to_the_same_bits(peer, folder, tmp_path):
    write_hugging_face(read(folder), tmp_path / "back")
    again = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "back")
    assert again.config.id2label == NAMES
    expected = peer.state_dict()
    assert again.state_dict().keys() == expected.keys()
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def test_names_of_version_5(peer):
    state = {key: torch.zeros(1) for key in peer.state_dict()}
    there = {RENAMING_5.to_ours(key) or RENAMING.to_ours(key) for key in state}
    assert None not in there
    assert len(there) == len(state)


def test_read_under_the_names_in_memory(peer, folder, tmp_path):
    torch.save(peer.state_dict(), tmp_path / "memory.pth")
    expected = read(folder).state
    for key, value in read(tmp_path / "memory.pth").state.items():
        assert torch.equal(value, expected[key])


@pytest.mark.parametrize("safe", [True, False])
def test_shards(peer, folder, tmp_path, safe):
    expected = read(folder).state
    shards = tmp_path / "shards"
    peer.save_pretrained(shards, max_shard_size="20KB")
    index = shards / "model.safetensors.index.json"
    assert len(list(shards.glob("*.safetensors"))) > 2
    if not safe:
        weight_map = {}
        for file in sorted(shards.glob("*.safetensors")):
            state = load_from_local(str(file))["state_dict"]
            torch.save(state, file.with_suffix(".bin"))
            weight_map.update(dict.fromkeys(state, file.with_suffix(".bin").name))
            file.unlink()
        index.unlink()
        index = shards / "pytorch_model.bin.index.json"
        index.write_text(json.dumps(dict(weight_map=weight_map)))
    for path in (shards, index):
        found = read(path)
        assert found.classes == tuple(NAMES.values())
        assert found.state.keys() == expected.keys()
        assert all(torch.equal(found.state[key], value) for key, value in expected.items())
    next(shards.glob("*-00002-of-*")).unlink()
    with pytest.raises(ConversionError, match="1 are missing: model-00002-of-"):
        read(shards)


def test_imagenet_backbone(randomise, tmp_path, image):
    config = transformers.SegformerConfig(**{**TINY, "id2label": {i: str(i) for i in range(9)}})
    peer = randomise(transformers.SegformerForImageClassification(config))
    peer.save_pretrained(tmp_path / "mit")
    checkpoint = read(tmp_path / "mit")
    assert (checkpoint.task, checkpoint.classes) == ("backbone", None)
    assert sorted(checkpoint.dropped) == ["classifier.bias", "classifier.weight"]
    write_hugging_face(checkpoint, tmp_path / "back")
    again = transformers.SegformerModel.from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        expected = peer.segformer(image).last_hidden_state
        assert torch.equal(again(image).last_hidden_state, expected)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, None),
        (dict(size=512), (512, 512)),
        (dict(size=dict(height=512, width=640)), (512, 640)),
        (dict(size=[480, 640]), (480, 640)),
        (dict(size=512, do_resize=False), None),
    ],
)
def test_the_size_is_read_and_written(folder, tmp_path, settings, size):
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    checkpoint = read(folder)
    assert checkpoint.input_size == size
    write_hugging_face(checkpoint, tmp_path / "back")
    again = transformers.SegformerImageProcessor.from_pretrained(tmp_path / "back")
    assert again.do_resize == (size is not None)
    assert size is None or (again.size["height"], again.size["width"]) == size
    assert read(tmp_path / "back").input_size == size
    for suffix in (".pth", ".safetensors"):
        write(checkpoint, tmp_path / f"own{suffix}")
        assert read(tmp_path / f"own{suffix}").input_size == size


@pytest.mark.parametrize("size", [dict(shortest_edge=512), "512", 0, [1, 2, 3], dict(height=1)])
def test_a_size_of_another_kind_is_named(folder, size):
    (folder / "preprocessor_config.json").write_text(json.dumps(dict(size=size)))
    with pytest.raises(ConversionError, match=r"preprocessor_config\.json has the size "):
        read(folder)


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        (dict(do_normalize=False), (0, 0, 0), (255, 255, 255)),
        (dict(do_normalize=False, do_rescale=False), (0, 0, 0), (1, 1, 1)),
        (dict(do_rescale=False, image_mean=[1, 2, 3], image_std=[4, 5, 6]), (1, 2, 3), (4, 5, 6)),
        (dict(size=512), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        (dict(rescale_factor=1 / 127.5, image_mean=[1] * 3, image_std=[1] * 3), (127.5,) * 3, None),
    ],
)
def test_what_is_switched_off_is_off(folder, settings, mean, std):
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    checkpoint = read(folder)
    assert checkpoint.mean == pytest.approx(mean)
    assert checkpoint.std == pytest.approx(std or mean)


def test_normalisation_is_read(folder):
    settings = dict(image_mean=[0.5, 0.25, 0.5], image_std=[0.5, 0.5, 0.5])
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    checkpoint = read(folder)
    assert checkpoint.mean == (127.5, 63.75, 127.5)
    assert checkpoint.std == (127.5, 127.5, 127.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(model_type="vit"), "describes a vit"),
        (dict(depths=[1, 1, 1, 1]), r"depths \[1, 1, 1, 1\], its weights have \[1, 2, 1, 1\]"),
        (dict(id2label={"0": "a"}), "names 1 classes, its classifier predicts 3"),
        (dict(hidden_act="relu"), "hidden_act 'relu'"),
        (dict(num_attention_heads=[1, 1, 1, 1]), "attention heads are not supported"),
    ],
)
def test_config_of_another_model(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConversionError, match=message):
        read(folder)


def test_image_processor_is_theirs(folder, tmp_path):
    checkpoint = read(folder)
    write_hugging_face(checkpoint, tmp_path / "back")
    from transformers.models.segformer.image_processing_pil_segformer import (
        SegformerImageProcessorPil,
    )

    processor = SegformerImageProcessorPil.from_pretrained(tmp_path / "back")
    image = torch.randint(0, 256, (3, 33, 47), dtype=torch.uint8)
    pixels = processor(image.numpy(), return_tensors="pt").pixel_values[0]
    mean, std = torch.tensor(checkpoint.mean), torch.tensor(checkpoint.std)
    expected = (image - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)
