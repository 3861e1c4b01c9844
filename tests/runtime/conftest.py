"""What a CUDA graph does, on a CPU: run again on the same memory, into the same memory."""

from types import SimpleNamespace

import pytest
import torch

from mmseg_tome.runtime import capture


class RecordAndReplay(capture.CudaGraphs):
    """Captures by remembering what to run."""

    def __init__(self):
        super().__init__()
        self.captures = []

    def takes(self, tensors):
        return all(isinstance(x, torch.Tensor) for x in tensors)

    def recover(self):
        pass

    def inference(self, function, tensors):
        self.captures.append(("inference", [tuple(x.shape) for x in tensors]))
        with torch.no_grad():
            inputs = [x.clone() for x in tensors]
            kept = [out.clone() for out in function(*inputs)]

        def replay(given):
            for own, new in zip(inputs, given, strict=True):
                own.copy_(new)
            for own, new in zip(kept, function(*inputs), strict=True):
                own.copy_(new)
            return [out.clone() for out in kept]

        return replay

    def training(self, function, tensors, module):
        parameters = [p for p in module.parameters() if p.requires_grad]
        self.captures.append(("training", [tuple(x.shape) for x in tensors]))
        inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in tensors]
        wanted = [x for x in inputs if x.requires_grad] + parameters
        live = list(function(*inputs))
        outputs = [x.detach().clone() for x in live]
        given = [torch.zeros_like(x) if x.requires_grad else None for x in live]
        found = [None if g is None else g.clone() for g in capture._gradients(live, wanted, given)]

        def forward():
            with torch.enable_grad():
                live[:] = function(*inputs)
            for own, new in zip(outputs, live, strict=True):
                own.copy_(new.detach())
            for gradient in found:  # a graph's passes share memory
                if gradient is not None:
                    gradient.fill_(torch.nan)

        def backward():
            roots = [x for x in live if x.requires_grad]
            grads = [g for g in given if g is not None]
            options = dict(allow_unused=True, retain_graph=True)
            for own, new in zip(
                found, torch.autograd.grad(roots, wanted, grads, **options), strict=True
            ):
                if own is not None:
                    own.copy_(new)

        replays = [SimpleNamespace(replay=work) for work in (forward, backward)]
        return capture.Passes(*replays, inputs, parameters, outputs, given, found)


@pytest.fixture
def recorder():
    return RecordAndReplay()
