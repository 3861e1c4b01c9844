"""The backbone in torch's own exporters, called as their users do, without a help of `export/`."""

import io
import warnings

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (72, 100)


@pytest.fixture
def network(tiny):
    def build(tome_cfg):
        model = tiny(tome_cfg=tome_cfg)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        return model

    return build


@pytest.mark.parametrize("tome_cfg", ["hq", "fast-turbo", "fast-prop", "n2d"])
@torch.no_grad()
def test_a_trace_serves_other_images_and_batches(network, tome_cfg):
    network, images = network(tome_cfg).double(), torch.randn(3, 3, *SIZE, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, images[:1])
    for got, expected in zip(traced(images), network(images), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("tome_cfg", "dynamo"),
    [("hq", True), ("hq", False), ("fast-prop", False), ("n2d", False)],
)
@torch.no_grad()
def test_onnx_export_with_either_exporter(network, tome_cfg, dynamo):
    """The new one for any batch; the old one takes the batch of a merging model for a constant."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    network, images = network(tome_cfg), torch.randn(2, 3, *SIZE)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = dict(x={0: torch.export.Dim("batch", min=1, max=8)})
            program = torch.onnx.export(
                network, (images,), dynamo=True, verbose=False, dynamic_shapes=batch
            )
            file.write(program.model_proto.SerializeToString())
        else:
            torch.onnx.export(
                network,
                (images,),
                file,
                dynamo=False,
                opset_version=18,
                input_names=["x"],
            )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for data in (images, torch.randn(3 if dynamo else 2, 3, *SIZE)):
        found = session.run(None, {"x": data.numpy()})
        for got, expected in zip(found, network(data), strict=True):
            spread = float(expected.max() - expected.min())
            near = np.abs(got - expected.numpy()) < 1e-3 * spread
            assert near.mean() > 0.95  # of two equal candidates it may take the other
