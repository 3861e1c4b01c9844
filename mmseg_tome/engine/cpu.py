"""What mmengine takes for granted of GPUs, arranged for machines that have none."""

import os
from contextlib import contextmanager

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.optim import OptimWrapper

from mmseg_tome.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed-precision training in bfloat16 on a CPU, where mmengine's wrapper refuses to run.

    bfloat16 has the range of float32, so losses need no scaling.
    """

    @contextmanager
    def optim_context(self, model: torch.nn.Module):
        """The context of a training step: autocast, and gradient accumulation as configured."""
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield


def adapt_to_cpu(cfg: Config) -> None:
    """Make a config run where no accelerator is: nothing changes where one is.

    Distributed jobs take the gloo backend and plain batch norm (SyncBN exists on GPUs only),
    and mixed precision takes bfloat16.
    """
    if get_device() != "cpu":
        return
    wrapper = cfg.get("optim_wrapper") or {}
    if wrapper.get("type") == "AmpOptimWrapper":
        scaling = ("type", "loss_scale", "dtype")
        kept = {key: value for key, value in wrapper.items() if key not in scaling}
        cfg.optim_wrapper = dict(type="mmseg_tome.CPUAmpOptimWrapper", **kept)
    if cfg.get("launcher", "none") == "none":
        return  # mmengine itself turns SyncBN into BN in a single process
    cfg.model = _without_sync_bn(cfg.model)
    cfg.merge_from_dict(dict(env_cfg=dict(dist_cfg=dict(backend="gloo"))))
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    if cfg.launcher == "pytorch" and "RANK" in os.environ and not dist.is_initialized():
        # mmengine's own launcher selects a CUDA device whatever the backend is.
        dist.init_process_group(backend="gloo")


def _without_sync_bn(node):
    if isinstance(node, dict):
        node = {key: _without_sync_bn(value) for key, value in node.items()}
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
        return ConfigDict(node)
    if isinstance(node, (list, tuple)):
        return type(node)(_without_sync_bn(value) for value in node)
    return node
