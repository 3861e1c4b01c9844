"""Losses of a few steps of a backbone under DDP, plain and by graphs: run by torch's launcher.

Prints one JSON line: the losses of both, with and without accumulated gradients, and whether graphs
were captured. On a CPU a stand-in takes the place of CUDA graphs.
"""

import json
import sys
from contextlib import nullcontext

import torch
import torch.distributed as dist
from conftest import RecordAndReplay  # beside this script
from torch.nn.parallel import DistributedDataParallel

from mmseg_tome.models import MixVisionTransformer
from mmseg_tome.runtime.graphs import CudaGraphs, install

STEPS = 6
GPU = torch.cuda.is_available()


def losses_of(graphs: bool, accumulate: int) -> tuple[list[float], list[bool]]:
    rank = dist.get_rank()
    device = torch.device("cuda", torch.cuda.current_device()) if GPU else torch.device("cpu")
    torch.manual_seed(0)
    sizes = dict(embed_dims=16, num_layers=(1, 2, 1, 1), drop_path_rate=0.2)
    net = MixVisionTransformer(**sizes, tome_cfg="hq").to(device).train()
    ids = [device.index] if GPU else None
    wrapped = DistributedDataParallel(net, device_ids=ids, broadcast_buffers=False)
    if graphs:
        install(net, "training", capture=CudaGraphs() if GPU else RecordAndReplay())
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in range(accumulate):
            torch.manual_seed(100 * step + 10 * part + rank)
            image = torch.randn(2, 3, 96, 64, device=device)
            wrapped.require_backward_grad_sync = part == accumulate - 1
            with torch.autocast("cuda", torch.bfloat16) if GPU else nullcontext():
                loss = sum(out.float().square().mean() for out in wrapped(image))
            (loss / accumulate).backward()
        optimizer.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item())
    return losses, net.forward.captured if graphs else []


def main() -> None:
    dist.init_process_group(sys.argv[1])
    if GPU:
        torch.cuda.set_device(dist.get_rank())
    found = []
    for accumulate in (1, 2):
        plain, _ = losses_of(False, accumulate)
        graphed, captured = losses_of(True, accumulate)
        one = dict(accumulate=accumulate, plain=plain, graphed=graphed, captured=captured)
        found.append(one)
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
