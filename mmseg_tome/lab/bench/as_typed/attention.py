"""Which attention a config's model runs, in a process of its own: it may take a GPU's memory.

    python -m mmseg_tome.lab.bench.as_typed.attention DTYPE,DTYPE CONFIG...

Prints a JSON object, from each data type and config to what `flops.attention_backend` says of one
block a stage on a small image.
"""

from __future__ import annotations

import json
import sys

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm

from mmseg_tome.lab.bench import flops

from .variants import build

SIDE = 128


def attention(path: str, dtype: torch.dtype) -> str:
    """Of the config at ``path``, on a GPU if there is one."""
    cfg = Config.fromfile(path)
    cfg.model.backbone.num_layers = [1] * len(cfg.model.backbone.num_layers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = revert_sync_batchnorm(build(cfg)).backbone.eval().to(device, dtype)
    image = torch.randn(1, 3, SIDE, SIDE, device=device, dtype=dtype)
    with torch.inference_mode():
        _, found = flops.count_flops(lambda: net(image))
    return flops.attention_backend(found)


if __name__ == "__main__":
    dtypes, *configs = sys.argv[1].split(","), *sys.argv[2:]
    found = {d: {c: attention(c, getattr(torch, d)) for c in configs} for d in dtypes}
    print(json.dumps(found))
