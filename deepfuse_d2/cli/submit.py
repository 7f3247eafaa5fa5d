#!/usr/bin/env python3
r"""Submit a training to Slurm, by submitit (the extra "slurm"); it is queued again when it must go.

python tools/submit_slurm.py --nodes 8 --gpus-per-node 8 --hours 24 --partition gpu -- \
    --config-file configs/Cityscapes/mask_rcnn_R_50_DeepFuseFPN.yaml OUTPUT_DIR output/run1

What follows "--" are the arguments of train_net.py. One process a GPU is started; the group is
joined by --dist-url env://. Before the time is up, or when the cluster wants the machines for
somebody else, the job is queued again with --resume. --local runs the same on this machine.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


class Training:
    """What runs in each process of the job.

    Args:
        arguments: of train_net.py.
    """

    def __init__(self, arguments: list[str]):
        self.arguments = arguments

    def __call__(self) -> None:
        import submitit

        # RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Slurm gives a
        # task all GPUs of its machine, and LOCAL_RANK says which is its own.
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        os.chdir(REPOSITORY)
        sys.path.insert(0, str(REPOSITORY))
        from detectron2.engine import default_argument_parser

        import train_net
        from deepfuse_d2.engine import launch
        from deepfuse_d2.engine.distributed.preemption import Preempted

        requeue = take_over_warning()
        args = default_argument_parser().parse_args(["--dist-url", "env://", *self.arguments])
        try:
            launch(train_net.run, args)
        except Preempted:
            if requeue is None:
                raise
            # A checkpoint is written. This queues the job again from the first process, and
            # returns in the others: if they ended with an error, Slurm might end the first.
            requeue(signal.SIGUSR2, None)

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
        if getattr(handler, "__name__", "") == "checkpoint_and_try_requeue":
            requeue = handler
            signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    return requeue


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Options of the job, and the arguments of train_net.py."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], usage="%(prog)s [options] -- TRAIN_NET_ARGUMENTS"
    )
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
    argv = sys.argv[1:] if argv is None else argv
    if "--" not in argv:
        parser.error('the arguments of train_net.py follow "--", e.g. -- --config-file FILE')
    split = argv.index("--")
    args, training = parser.parse_args(argv[:split]), argv[split + 1 :]
    if "--config-file" not in training:
        parser.error('no --config-file among the arguments of train_net.py, behind "--"')
    return args, training


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


def main(argv: list[str] | None = None) -> int:
    args, training = parse(argv)
    try:
        import submitit
    except ImportError:
        print(
            'submit_slurm.py: the package submitit is missing: pip install "deepfuse-d2[slurm]". '
            "Without it, srun torchrun starts the same; docs/scaling.md has the lines.",
            file=sys.stderr,
        )
        return 2
    executor = submitit.AutoExecutor(
        folder=f"{args.logs}/%j",
        cluster="local" if args.local else None,
        **({} if args.local else {"slurm_max_num_timeout": args.requeues}),
    )
    executor.update_parameters(**parameters(args))
    job = executor.submit(Training(training))
    print(f"Job {job.job_id}; log of the first process: {job.paths.stdout}")
    if args.local:
        job.result()
    return 0


if __name__ == "__main__":
    sys.exit(main())
