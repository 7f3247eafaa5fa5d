"""What is asked of Slurm, and what runs in each process; submitit is stood in for."""

import os
import signal
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from deepfuse_d2.cli import submit

LAUNCH = "deepfuse_d2.engine.distributed.launch.launch"


@pytest.fixture
def submitit(monkeypatch):
    """Keeps what submitit would be told."""
    stub = ModuleType("submitit")
    stub.made, stub.parameters, stub.submitted, stub.exported = [], {}, [], []

    class AutoExecutor:
        def __init__(self, **arguments):
            stub.made.append(arguments)

        def update_parameters(self, **parameters):
            stub.parameters |= parameters

        def submit(self, function):
            stub.submitted.append(function)
            paths = SimpleNamespace(stdout="log")
            return SimpleNamespace(job_id="17", paths=paths, result=function)

    environment = SimpleNamespace(export=lambda **arguments: stub.exported.append(arguments))
    stub.AutoExecutor = AutoExecutor
    stub.helpers = SimpleNamespace(
        DelayedSubmission=lambda function: SimpleNamespace(function=function),
        TorchDistributedEnvironment=lambda: environment,
    )
    monkeypatch.setitem(sys.modules, "submitit", stub)
    return stub


def test_a_job_asks_for_one_task_a_gpu_and_a_warning_before_its_end(deepfuse, submitit, capsys):
    options = ["--nodes", "8", "--hours", "2.5", "--partition", "gpu", "--requeues", "3"]
    assert deepfuse("submit", *options, "--", "--config-file", "a.yaml", "OUTPUT_DIR", "out") == 0
    assert submitit.made == [
        {"folder": "output/slurm/%j", "cluster": None, "slurm_max_num_timeout": 3}
    ]
    asked = submitit.parameters
    assert (asked["nodes"], asked["tasks_per_node"], asked["gpus_per_node"]) == (8, 8, 8)
    assert asked["timeout_min"] == 150
    assert asked["slurm_partition"] == "gpu"
    assert asked["slurm_signal_delay_s"] >= 60
    assert "slurm_account" not in asked
    assert submitit.submitted[0].arguments == ["--config-file", "a.yaml", "OUTPUT_DIR", "out"]
    assert "Job 17" in capsys.readouterr().out


def test_after_a_timeout_the_same_is_queued_again_and_resumes(submitit):
    again = submit.Training(["--config-file", "a.yaml"]).checkpoint().function
    assert again.arguments == ["--resume", "--config-file", "a.yaml"]
    assert again.checkpoint().function.arguments == again.arguments


def test_each_process_joins_the_group_that_submitit_describes(deepfuse, submitit, monkeypatch):
    launched = []
    monkeypatch.setattr(LAUNCH, lambda main, args: launched.append((main, args)))
    training = ["--config-file", "a.yaml", "SEED", "3"]
    monkeypatch.setattr("deepfuse_d2.config.recipes.find_config", lambda name: name)
    assert deepfuse("submit", "--local", "--gpus-per-node", "0", "--", *training) == 0
    ((main, args),) = launched
    assert (main.__module__, main.__name__) == ("deepfuse_d2.cli.train", "run_in_process")
    assert args.dist_url == "env://"
    assert args.config_file == "a.yaml"
    assert args.opts == ["SEED", "3"]
    assert submitit.exported == [{"set_cuda_visible_devices": False}]
    assert submitit.made[0]["cluster"] == "local"
    assert submitit.parameters["tasks_per_node"] == 1
    assert not any(key.startswith("slurm_") for key in submitit.parameters)


def test_the_warning_of_slurm_writes_a_checkpoint_before_the_job_is_queued_again(
    submitit, monkeypatch
):
    from deepfuse_d2.engine.distributed.preemption import Preempted

    happened = []

    def checkpoint_and_try_requeue(number, frame):
        happened.append("queued again")

    def train(main, args):
        def note(number, frame):
            happened.append("checkpoint")
            raise Preempted(75)

        signal.signal(signal.SIGTERM, note)
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(5)
        happened.append("no signal came")

    monkeypatch.setattr(LAUNCH, train)
    monkeypatch.setattr("deepfuse_d2.config.recipes.find_config", lambda name: name)
    before = [(x, signal.getsignal(x)) for x in (signal.SIGTERM, signal.SIGUSR2)]
    signal.signal(signal.SIGUSR2, checkpoint_and_try_requeue)
    try:
        submit.Training(["--config-file", "a.yaml"])()
        assert happened == ["checkpoint", "queued again"]
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        assert submit.take_over_warning() is None
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nodes", "2"], 'the arguments of deepfuse train follow "--"'),
        (["--", "--resume"], "no recipe and no --config-file among the arguments"),
    ],
)
def test_missing_arguments_are_named(deepfuse, argv, message, capsys):
    with pytest.raises(SystemExit) as ended:
        deepfuse("submit", *argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_submitit_is_named_with_its_extra(deepfuse, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert deepfuse("submit", "--", "--config-file", "a.yaml") == 2
    assert 'pip install "deepfuse-d2[slurm]"' in capsys.readouterr().err
