"""Start a main function in as many processes as the command line or the environment says."""

import argparse
import functools
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

from ...errors import ConfigError
from .all_reduce import forget_group

__all__ = ["launch"]

# What torchrun, submitit and the operators of Kubernetes set for each process.
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Call ``main(args)`` in every process.

    Who starts the processes:

    - torchrun, which is recognised by its environment, has started them (elastic restarts too);
    - so has somebody else with ``--dist-url env://``: this process then joins the group that RANK,
      WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe;
    - otherwise detectron2's launcher starts ``args.num_gpus``; on a machine without GPUs they are
      CPU processes (gloo). A process that ends with an exit code gives it to this one, and a
      SIGTERM goes on to all of them.

    Raises: ConfigError: the arguments or variables do not describe a group.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or args.dist_url == "env://":
        _join(main, args)
        return
    _check(args)
    if args.num_gpus * args.num_machines <= 1:
        main(args)
        return
    try:
        with _passing_on_sigterm():
            detectron2_launch(
                functools.partial(_in_group, main),
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
    except mp.ProcessExitedException as error:
        # its own message has been printed; a negative code is the signal that ended it
        sys.exit(error.exit_code if error.exit_code > 0 else 128 - error.exit_code)


def _join(main: Callable, args: argparse.Namespace) -> None:
    """Call main in the group that the environment describes."""
    environment = {name: os.environ.get(name) for name in _VARIABLES}
    missing = [name for name, value in environment.items() if not value]
    if missing:
        raise ConfigError(
            f"--dist-url env:// takes the group from the environment, where {', '.join(missing)} "
            f"is missing; all of {', '.join(_VARIABLES)} must be set for each process. torchrun "
            "sets them; deepfuse submit does it under Slurm."
        )
    # srun and Kubernetes' operators leave it out: one process a machine, or a count by Slurm
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or _local_size_by_slurm()
    local_rank = int(environment["LOCAL_RANK"])
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"LOCAL_RANK is {local_rank}; but this machine has {torch.cuda.device_count()} "
                "GPUs. Start one process a GPU."
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if has_gpu else "gloo")
    comm.create_local_process_group(local_size)
    _in_group(main, args)


def _local_size_by_slurm() -> int:
    return int(os.environ.get("SLURM_NTASKS_PER_NODE", 0)) or 1


def _in_group(main: Callable, args: argparse.Namespace) -> None:
    """Call main, and leave the group after it; after a failure the end of the process does that."""
    exit_code = None
    try:
        main(args)
    except SystemExit as error:  # in good order too: of a preemption, say
        # its frames would keep the model, and that the group
        traceback.clear_frames(error.__traceback__)
        exit_code = error.with_traceback(None)
    _leave_group()
    if exit_code is not None:
        raise exit_code


def _leave_group() -> None:
    """Destroy the group of processes and let go of it, so that its threads end now.

    A group that is still held is not closed by torch. The threads of gloo then live until the
    interpreter ends; one that is late to drop a tensor of the last message waits for python's lock
    there, is ended by python, and that aborts the process (SIGABRT, "terminate called without an
    active exception") after all of its work was done.
    """
    dist.destroy_process_group()
    forget_group()
    comm._LOCAL_PROCESS_GROUP = None
    comm.create_local_process_group.cache_clear()
    comm._get_global_gloo_group.cache_clear()
    gc.collect()  # trainer, hooks and DistributedDataParallel hold each other


def _check(args: argparse.Namespace) -> None:
    available = torch.cuda.device_count()
    if 0 < available < args.num_gpus:
        raise ConfigError(
            f"--num-gpus {args.num_gpus} was given; but this machine has {available}."
        )
    if args.num_gpus < 0 or args.num_machines < 1:
        raise ConfigError(
            f"--num-gpus {args.num_gpus} and --num-machines {args.num_machines} were given; "
            "processes are 0 (one, on the CPU) or more, machines 1 or more."
        )
    if not 0 <= args.machine_rank < args.num_machines:
        raise ConfigError(
            f"--machine-rank {args.machine_rank} was given with --num-machines "
            f"{args.num_machines}; machines are counted from 0."
        )
    if args.num_machines > 1 and (
        args.dist_url == "auto" or "127.0.0.1" in args.dist_url or "localhost" in args.dist_url
    ):
        raise ConfigError(
            f"--dist-url {args.dist_url} was given with --num-machines {args.num_machines}: each "
            "machine would wait for the others at itself. Give the address of machine 0 and a free "
            "port there, the same to all: --dist-url tcp://HOST:PORT."
        )


@contextmanager
def _passing_on_sigterm() -> Iterator[None]:
    """Within it, a SIGTERM goes to the processes that this one started, and this one stays.

    They write their checkpoint and end; what they end with is what the launcher returns.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # python sets handlers in the main thread alone
        return

    def pass_on(number, frame):
        for child in mp.active_children():
            child.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
