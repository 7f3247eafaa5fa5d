"""One model in several processes: how their gradients become one."""

import logging

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from ...errors import ConfigError
from ...layers.norm import UnsyncedBatchNorm

__all__ = ["distribute", "local_norms_on_cpu"]

_COMPRESSIONS = {
    "fp16": default_hooks.fp16_compress_hook,
    "bf16": default_hooks.bf16_compress_hook,
}


def distribute(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """DistributedDataParallel of `model` as DISTRIBUTED says; `model` itself of a single process.

    Buffers, such as statistics of BatchNorm, are not sent around: detectron2's choice.

    Raises: ConfigError: a key of DISTRIBUTED has a value that is not allowed.
    """
    keys = cfg.DISTRIBUTED
    _check(keys)
    if comm.get_world_size() == 1:
        return model
    on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda"
    model = DistributedDataParallel(
        model,
        device_ids=[comm.get_local_rank()] if on_gpu else None,
        broadcast_buffers=False,
        static_graph=keys.STATIC_GRAPH,
        find_unused_parameters=keys.FIND_UNUSED,
        bucket_cap_mb=keys.BUCKET_CAP_MB,
        # gradients live in what is sent: one copy of the model's size less
        gradient_as_bucket_view=True,
    )
    if keys.COMPRESSION == "powersgd":
        state = powerSGD_hook.PowerSGDState(
            process_group=None,
            matrix_approximation_rank=keys.POWERSGD_RANK,
            start_powerSGD_iter=keys.POWERSGD_START,
        )
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif keys.COMPRESSION:
        model.register_comm_hook(None, _COMPRESSIONS[keys.COMPRESSION])
    return model


def local_norms_on_cpu(model: nn.Module, device: str | torch.device) -> nn.Module:
    """`model`, on a CPU with SyncBN that normalises within each process.

    torch synchronises statistics on GPUs alone. A norm that our own ``get_norm`` built knows what
    to do; those of detectron2's networks are replaced here, under the same names.
    """
    if torch.device(device).type == "cpu":
        for module in list(model.modules()):
            for name, child in module.named_children():
                if type(child) is nn.SyncBatchNorm:
                    setattr(module, name, UnsyncedBatchNorm.of(child))
    return model


def _check(keys: CfgNode) -> None:
    allowed = ["", *_COMPRESSIONS, "powersgd"]
    if keys.COMPRESSION not in allowed:
        raise ConfigError(
            f'DISTRIBUTED.COMPRESSION = "{keys.COMPRESSION}" is unknown; choose one of {allowed}.'
        )
    if keys.BUCKET_CAP_MB <= 0:
        raise ConfigError(
            f"DISTRIBUTED.BUCKET_CAP_MB is {keys.BUCKET_CAP_MB}; give megabytes above 0. torch's "
            "own choice is 25."
        )
    if keys.POWERSGD_RANK < 1 or keys.POWERSGD_START < 2:
        raise ConfigError(
            f"DISTRIBUTED.POWERSGD_RANK is {keys.POWERSGD_RANK} and POWERSGD_START "
            f"{keys.POWERSGD_START}; the rank must be 1 or more, the start 2 or more: before, "
            "DistributedDataParallel still sorts its buckets."
        )
    if keys.STATIC_GRAPH and keys.FIND_UNUSED:
        logging.getLogger(__name__).warning(
            "DISTRIBUTED.STATIC_GRAPH finds parameters without gradient by itself, once; "
            "FIND_UNUSED adds nothing but time."
        )
