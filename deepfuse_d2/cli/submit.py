"""Submit a training to Slurm, by submitit (the extra "slurm"); it is queued again when it must go.

    deepfuse submit --nodes 8 --gpus-per-node 8 --hours 24 --partition gpu -- \\
        Cityscapes/mask_rcnn_R_50_DeepFuseFPN OUTPUT_DIR output/run1

What follows "--" are the arguments of deepfuse train. One process a GPU is started; the group is
joined by --dist-url env://. Before the time is up, or when the cluster wants the machines for
somebody else, the job is queued again with --resume. --local runs the same on this machine.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable

from ..errors import UserError
from .arguments import config_and_overrides

__all__ = ["Training", "add_arguments", "check", "run"]


class Training:
    """What runs in each process of the job.

    Args:
        arguments: of ``deepfuse train``.
    """

    def __init__(self, arguments: list[str]):
        self.arguments = arguments
        # paths among the arguments are relative to it
        self.folder = os.getcwd()

    def __call__(self) -> None:
        import submitit

        # RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Slurm gives a
        # task all GPUs of its machine, and LOCAL_RANK says which is its own.
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        os.chdir(self.folder)
        from ..engine.distributed.preemption import Preempted
        from .main import main

        requeue = take_over_warning()
        try:
            code = main(["train", "--dist-url", "env://", *self.arguments])
        except Preempted:
            if requeue is None:
                raise
            # A checkpoint is written. This queues the job again from the first process, and
            # returns in the others: if they ended with an error, Slurm might end the first.
            requeue(signal.SIGUSR2, None)
        else:
            if code:
                raise SystemExit(code)

    def checkpoint(self):
        """What submitit queues again after a timeout or a preemption: the same, resumed."""
        import submitit

        resumed = [x for x in self.arguments if x != "--resume"]
        return submitit.helpers.DelayedSubmission(Training(["--resume", *resumed]))


def take_over_warning() -> Callable | None:
    """Let submitit's warning signal end the training as SIGTERM does, with a checkpoint.

    submitit would leave at once, in the middle of a step.

    Returns:
        what submitit would have called, with (signal, frame); None where it waits for no signal.
    """
    requeue = None
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        handler = signal.getsignal(number)
        if callable(handler) and getattr(handler, "__name__", "") == "checkpoint_and_try_requeue":
            requeue = handler
            signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    return requeue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] -- ARGUMENTS_OF_TRAIN"
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus-per-node", type=int, default=8, help="0: one CPU process a node")
    parser.add_argument("--cpus-per-gpu", type=int, default=8, help="for data-loader workers")
    parser.add_argument("--memory-gb", type=int, default=0, help="of a node; 0: the cluster's own")
    parser.add_argument("--hours", type=float, default=24, help="until it is queued again")
    parser.add_argument("--partition", default="")
    parser.add_argument("--account", default="")
    parser.add_argument("--qos", default="")
    parser.add_argument("--constraint", default="", help="features of the nodes")
    parser.add_argument("--name", default="deepfuse_d2")
    parser.add_argument("--logs", default="output/slurm", help="folder, readable by all nodes")
    parser.add_argument("--requeues", type=int, default=20, help="after so many timeouts it ends")
    parser.add_argument("--local", action="store_true", help="run here, without Slurm")


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from .main import parse

    if not args.behind:
        parser.error('the arguments of deepfuse train follow "--", e.g. -- --config-file FILE')
    training = parse(["train", *args.behind])
    if not config_and_overrides(training)[0]:
        parser.error('no recipe and no --config-file among the arguments of train, behind "--"')


def parameters(args: argparse.Namespace) -> dict:
    """Arguments of submitit's ``update_parameters``: its own names, or Slurm's behind "slurm_"."""
    tasks = max(args.gpus_per_node, 1)
    given = {
        "name": args.name,
        "nodes": args.nodes,
        "tasks_per_node": tasks,
        "gpus_per_node": args.gpus_per_node,
        "cpus_per_task": args.cpus_per_gpu,
        "timeout_min": round(args.hours * 60),
        "stderr_to_stdout": True,
    }
    if args.memory_gb:
        given["mem_gb"] = args.memory_gb
    if args.local:
        return given
    optional = {key: getattr(args, key) for key in ("partition", "account", "qos", "constraint")}
    given |= {f"slurm_{key}": value for key, value in optional.items() if value}
    # the warning that comes before the end: enough for a checkpoint
    given["slurm_signal_delay_s"] = 180
    return given


def run(args: argparse.Namespace) -> None:
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            'The package submitit is missing: pip install "deepfuse-d2[slurm]". '
            "Without it, srun torchrun starts the same; docs/scaling.md has the lines."
        ) from error
    executor = submitit.AutoExecutor(
        folder=f"{args.logs}/%j",
        cluster="local" if args.local else None,
        **({} if args.local else {"slurm_max_num_timeout": args.requeues}),
    )
    executor.update_parameters(**parameters(args))
    job = executor.submit(Training(args.behind))
    print(f"Job {job.job_id}; log of the first process: {job.paths.stdout}")
    if args.local:
        job.result()
