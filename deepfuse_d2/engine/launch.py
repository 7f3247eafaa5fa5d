"""Start a main function in as many processes as the command line or torchrun says."""

import argparse
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

from ..errors import ConfigError

__all__ = ["launch"]


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Call ``main(args)`` in every process.

    Under torchrun, which has started the processes already, this one joins the group that the
    environment describes. Otherwise detectron2's launcher starts ``args.num_gpus`` processes; on a
    machine without GPUs they are CPU processes (gloo).
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        has_gpu = torch.cuda.is_available()
        if has_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if has_gpu else "gloo")
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        try:
            main(args)
        finally:
            dist.destroy_process_group()
        return
    available = torch.cuda.device_count()
    if 0 < available < args.num_gpus:
        raise ConfigError(
            f"--num-gpus {args.num_gpus} was given; but this machine has {available}."
        )
    detectron2_launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
