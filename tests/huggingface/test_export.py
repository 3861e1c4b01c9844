"""A merging SegFormer of transformers in torch's own exporters, called as their users do."""

import io
import warnings

import numpy as np
import pytest
import torch

from mmseg_tome.huggingface import apply_merging

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (64, 96)


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).logits


@pytest.fixture
def network():
    """A tiny segmentation model that merges as its stages' preset says."""
    transformers = pytest.importorskip("transformers")

    def build(tome_cfg):
        config = transformers.SegformerConfig(
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 2, 1],
            num_attention_heads=[1, 2, 3, 4],
            decoder_hidden_size=16,
            num_labels=5,
        )
        torch.manual_seed(0)
        model = transformers.SegformerForSemanticSegmentation(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        return Logits(apply_merging(model, tome_cfg)).eval()

    return build


def agreement(got: np.ndarray, expected: torch.Tensor) -> float:
    """Share of values that are near: merging may take the other one of two equal candidates."""
    spread = float(expected.max() - expected.min())
    return float((np.abs(got - expected.numpy()) < 1e-3 * spread).mean())


@pytest.mark.parametrize("tome_cfg", ["hq", "fast-turbo", "n2d"])
def test_a_trace_serves_another_batch(network, tome_cfg):
    network, images = network(tome_cfg).double(), torch.randn(3, 3, *SIZE, dtype=torch.float64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, images[:1])
        torch.testing.assert_close(traced(images), network(images))


@pytest.mark.parametrize(
    ("tome_cfg", "dynamo"), [("hq", True), ("hq", False), ("fast-turbo", False), ("n2d", False)]
)
@torch.no_grad()
def test_onnx_export_without_any_help_of_ours(network, tome_cfg, dynamo):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    network, images = network(tome_cfg), torch.randn(1, 3, *SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = io.BytesIO()
        if dynamo:
            program = torch.onnx.export(network, (images,), dynamo=True, verbose=False)
            file.write(program.model_proto.SerializeToString())
        else:
            torch.onnx.export(network, (images,), file, dynamo=False, opset_version=18)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for data in (images, torch.randn(1, 3, *SIZE)):
        (got,) = session.run(None, {session.get_inputs()[0].name: data.numpy()})
        assert agreement(got, network(data)) > 0.95
