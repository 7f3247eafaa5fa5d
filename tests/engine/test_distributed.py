"""Two processes (gloo, on the CPU) do what one does; they are started once, for all tests."""

import argparse
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from test_hooks_scores import SCORES, Loop
from test_hooks_watching import Learner, images
from torch import nn

from deepfuse_d2.engine import Trainer, launch, load_config
from deepfuse_d2.engine.distributed.data_parallel import distribute, local_norms_on_cpu
from deepfuse_d2.engine.hooks.validation_loss import mean_losses
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.layers import get_norm

ITERATIONS = 20


def arguments(**changes):
    given = {"num_gpus": 2, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    return argparse.Namespace(**{**given, **changes})


def config(folder, *overrides):
    """A semantic model without BatchNorm on six images in which every pixel has a label.

    A loss over labelled pixels is a mean within each process; where all pixels are labelled, the
    mean over processes is the mean over the batch.
    """
    cfg = load_config("", [
        "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "",
        "MODEL.META_ARCHITECTURE", "FusionSemanticSegmentor",
        "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", "18",
        "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3']",
        "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NORM", "FrozenBN",
        "MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "MODEL.SEM_SEG_HEAD.NORM", "GN",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2', 'res3']",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3",
        "DATASETS.TRAIN", "('squares',)", "DATASETS.TEST", "('squares',)",
        "DATASETS.EXTRA", str([{
            "NAME": "squares", "FORMAT": "label_images", "IMAGES": f"{folder}/images",
            "LABELS": f"{folder}/labels", "CLASSES": ["ground", "square", "frame"],
        }]),
        "DATALOADER.NUM_WORKERS", "0", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False",
        "INPUT.MIN_SIZE_TRAIN", "(32,)", "INPUT.MIN_SIZE_TEST", "32",
        "DEEPFUSE_D2.INPUT.COLOR_JITTER", "0.2",
        "INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "[32, 32]",
        "SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "0.02", "SOLVER.MAX_ITER", str(ITERATIONS),
        "SOLVER.WARMUP_ITERS", "5", "SEED", "7", "MONITOR.WRITERS", "['json']",
        "DEEPFUSE_D2.SOLVER.FINAL_SAFETENSORS", "False",
        "MONITOR.VALIDATION_LOSS_PERIOD", "10", "MONITOR.METRIC", "validation/total_loss",
        "MONITOR.MODE", "min", "MONITOR.PICTURES_PERIOD", "20", "MONITOR.PICTURES", "1",
        *overrides,
    ])  # fmt: skip
    cfg.freeze()
    return cfg


class Losses(HookBase):
    """Keeps the loss of each iteration, over all processes."""

    def __init__(self):
        self.losses = []

    def after_step(self):
        if comm.is_main_process():
            self.losses.append(self.trainer.storage.latest()["total_loss"][0])


def train(folder, output):
    torch.set_num_threads(1)
    seed_all_rng(7 + comm.get_rank())
    trainer = Trainer(config(folder, "OUTPUT_DIR", str(output)))
    trainer.resume_or_load(resume=False)
    losses = Losses()
    trainer.register_hooks([losses])
    results = trainer.train()
    return losses.losses, results


def compressed(folder, kind):
    """Mean gradient of the processes, with and without compression, after three backwards."""
    keys = ["DISTRIBUTED.COMPRESSION", kind, "DISTRIBUTED.POWERSGD_START", "2"]
    keys += ["DISTRIBUTED.STATIC_GRAPH", "True", "DISTRIBUTED.BUCKET_CAP_MB", "1"]
    torch.manual_seed(1)
    model = distribute(config(folder, *keys), nn.Linear(64, 64, bias=False))
    # one image a process: a gradient of rank 1 each, 2 together, which PowerSGD keeps
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(comm.get_rank()))
    for _ in range(3):
        model.zero_grad()
        model(x).pow(2).sum().backward()
    own = 2 * (x @ model.module.weight.detach().T).T @ x
    mean = torch.stack(comm.all_gather(own)).mean(dim=0)
    difference = (model.module.weight.grad - mean).abs().max() / mean.abs().max()
    return difference.item()


def norm_in_a_group():
    x = torch.randn(3, 8, 4, 4)
    try:
        nn.SyncBatchNorm(8)(x)
        stock_fails = False
    except ValueError:
        stock_fails = True
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("deepfuse_d2.layers.norm").addHandler(handler)
    model = local_norms_on_cpu(nn.Sequential(nn.SyncBatchNorm(8), get_norm("SyncBN", 8)), "cpu")
    same = torch.allclose(model(x), nn.BatchNorm2d(8)(nn.BatchNorm2d(8)(x)), atol=1e-6)
    model(x)
    return {"stock_fails": stock_fails, "same": same, "warnings": len(records)}


def in_each_process(args):
    """All that is tested of two processes; the main one writes what came of it."""
    folder, rank = args.folder, comm.get_rank()
    main = comm.is_main_process()
    losses, results = train(folder, folder / "two")
    data = images(5)
    # one process has three images, the other two
    torch.manual_seed(3)
    validation = mean_losses(Learner(), [data[:2], data[2:3]] if main else [data[3:]])
    stopped = Loop(folder / "stopped", SCORES.get, patience=2)
    if not main:  # evaluators have results in the main process alone
        stopped.evaluate = lambda score: {}
    stopped.go(12)
    report = {
        "losses": losses,
        "results": results,
        "validation": validation,
        "steps": stopped.steps,
        "compressed": {kind: compressed(folder, kind) for kind in ("", "fp16", "bf16", "powersgd")},
        "norm": norm_in_a_group(),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(report))
    end_on_sigterm()


def end_on_sigterm():
    """The main process has the launcher terminated; when that comes through, all leave with 75."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    comm.synchronize()
    if comm.is_main_process():
        os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
    sys.exit("no SIGTERM came")


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Folder of six images of squares and their labels."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for part in ("images", "labels", "stopped"):
        (folder / part).mkdir()
    for i in range(6):
        labels = np.zeros((40, 40), np.uint8)
        y, x, size = rng.integers(4, 20), rng.integers(4, 20), rng.integers(6, 16)
        labels[y - 3 : y + size + 3, x - 3 : x + size + 3] = 2
        labels[y : y + size, x : x + size] = 1
        image = rng.integers(0, 60, (40, 40, 3)) + labels[:, :, None] * 70
        cv2.imwrite(str(folder / "images" / f"{i}.png"), image.astype(np.uint8))
        cv2.imwrite(str(folder / "labels" / f"{i}.png"), labels)
    return folder


@pytest.fixture(scope="module")
def two(squares):
    """Reports of two processes."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        launch(in_each_process, arguments(folder=squares))
    assert signal.getsignal(signal.SIGTERM) is before
    reports = [json.loads((squares / f"rank{rank}.json").read_text()) for rank in range(2)]
    return [{**report, "exit_code": ended.value.code} for report in reports]


@pytest.fixture(scope="module")
def one(squares):
    """Losses of one process."""
    return train(squares, squares / "one")[0]


def test_two_processes_have_the_losses_of_one_with_the_same_global_batch(one, two):
    losses = one
    assert len(losses) == ITERATIONS
    assert losses[-1] < 0.9 * losses[0]  # something was learned, so steps matter
    np.testing.assert_allclose(two[0]["losses"], losses, rtol=2e-4)


def test_a_sharded_evaluation_gives_the_scores_of_one_process(two, squares):
    weights = str(squares / "two" / "model_final.pth")
    cfg = config(squares, "OUTPUT_DIR", str(squares / "alone"), "MODEL.WEIGHTS", weights)
    from deepfuse_d2.checkpoint import DeepFuseCheckpointer

    model = Trainer.build_model(cfg)
    DeepFuseCheckpointer(model).load(weights)
    alone = json.loads(json.dumps(Trainer.test(cfg, model)))
    assert two[0]["results"] == alone
    assert two[1]["results"] is None


def test_the_validation_loss_of_two_processes_is_that_of_all_images(two):
    torch.manual_seed(3)
    alone = mean_losses(Learner(), [images(5)])
    assert two[0]["validation"] == two[1]["validation"] == pytest.approx(alone, rel=1e-5)


def test_all_processes_stop_early_together(two):
    assert two[0]["steps"] == two[1]["steps"] == list(range(8))


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("", 1e-6), ("fp16", 2e-3), ("bf16", 2e-2), ("powersgd", 1e-4)]
)
def test_compressed_gradients_are_the_mean_of_the_processes(two, kind, tolerance):
    for report in two:
        assert report["compressed"][kind] <= tolerance
    if kind in ("fp16", "bf16"):
        assert two[0]["compressed"][kind] > 1e-6  # it was compressed


def test_syncbn_in_a_group_of_cpu_processes_is_bn_with_one_warning(two):
    for report in two:
        assert report["norm"] == {"stock_fails": True, "same": True, "warnings": 1}


def test_syncbn_has_the_statistics_and_names_of_bn_on_a_cpu():
    x = torch.randn(2, 8, 3, 3)
    ours, reference = get_norm("SyncBN", 8), nn.BatchNorm2d(8)
    assert isinstance(ours, nn.SyncBatchNorm)
    for _ in range(2):
        torch.testing.assert_close(ours(x), reference(x))
    torch.testing.assert_close(ours.state_dict(), reference.state_dict())
    torch.testing.assert_close(ours.eval()(x), reference.eval()(x))


def test_a_model_for_a_gpu_keeps_detectron2s_syncbn():
    model = nn.Sequential(nn.SyncBatchNorm(8))
    assert type(local_norms_on_cpu(model, "cuda")[0]) is nn.SyncBatchNorm
    weight = model[0].weight
    assert local_norms_on_cpu(model, "cpu")[0].weight is weight


def test_one_process_gets_its_model_as_it_is(squares):
    model = nn.Linear(2, 2)
    assert distribute(config(squares), model) is model


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("COMPRESSION", "fp8", r'COMPRESSION = "fp8" is unknown; choose one of'),
        ("BUCKET_CAP_MB", "0", "BUCKET_CAP_MB is 0; give megabytes above 0"),
        ("POWERSGD_START", "1", "POWERSGD_START 1; the rank must be 1 or more, the start 2"),
    ],
)
def test_a_wrong_key_of_distributed_is_named(squares, key, value, message):
    with pytest.raises(ConfigError, match=message):
        distribute(config(squares, f"DISTRIBUTED.{key}", value), nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_gpus": -1}, "--num-gpus -1 and --num-machines 1 were given"),
        ({"machine_rank": 2, "num_machines": 2}, "--machine-rank 2 was given .*counted from 0"),
        ({"num_machines": 2}, "each machine would wait for the others at itself"),
        ({"num_machines": 2, "dist_url": "tcp://127.0.0.1:29500"}, "tcp://HOST:PORT"),
        ({"dist_url": "env://"}, "MASTER_ADDR, MASTER_PORT is missing.*deepfuse submit"),
    ],
)
def test_arguments_that_describe_no_group_are_refused(monkeypatch, changes, message):
    for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(ConfigError, match=message):
        launch(lambda args: None, arguments(**changes))


def test_without_gpus_one_process_runs_here():
    called = []
    launch(called.append, arguments(num_gpus=0))
    assert len(called) == 1


def test_a_group_is_joined_by_the_environment(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    seen = []
    launch(
        lambda args: seen.append((torch.distributed.get_world_size(), comm.get_local_size())),
        arguments(dist_url="env://"),
    )
    comm._LOCAL_PROCESS_GROUP = None
    assert seen == [(1, 1)]
    assert not torch.distributed.is_initialized()


GROUP_OF_ONE = """
import argparse, os, sys, torch
from detectron2.utils import comm
from deepfuse_d2.engine import launch
from deepfuse_d2.engine.distributed.all_reduce import all_reduce_any
from torch.nn.parallel import DistributedDataParallel

def main(args):
    model = DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    circle = [model]
    circle.append(circle)  # as a trainer and its hooks hold each other
    comm._get_global_gloo_group()
    comm.get_world_size = lambda: 2  # of one, nobody is asked
    all_reduce_any(True)
    print("during", threads())
    if args.end is not None:
        sys.exit(args.end)

def threads():
    # new ones, whatever their names: those of gloo have none before torch 2.7
    return len(set(os.listdir("/proc/self/task")) - before)

before = set(os.listdir("/proc/self/task"))
try:
    launch(main, argparse.Namespace(dist_url="env://", end=eval(sys.argv[1])))
finally:
    print("after", threads())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="threads are listed by Linux")
@pytest.mark.parametrize("end", [None, 3])
def test_no_thread_of_a_group_outlives_the_training(end):
    """One that does, and is late, aborts the interpreter as it ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GROUP_OF_ONE, repr(end)],
        env={**os.environ, **group, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == (end or 0), done.stderr
    during, after = done.stdout.splitlines()[-2:]
    assert during.startswith("during")
    assert int(during.split()[1]) > 0
    assert after == "after 0"


def test_a_sigterm_reaches_all_processes_and_their_exit_code_comes_back(two):
    assert two[0]["exit_code"] == 75


def test_what_monitor_asks_for_is_done_in_two_processes_as_in_one(one, two, squares):
    last = {}
    for run in ("one", "two"):
        lines = (squares / run / "metrics.json").read_text().splitlines()
        for line in lines:
            last[run] = {**last.get(run, {}), **json.loads(line)}
        assert (squares / run / "model_best.pth").exists()
        assert (squares / run / "last_checkpoint").read_text() == "model_final.pth"
        assert [p.name for p in (squares / run / "pictures").iterdir()] == ["0000020"]
        assert 0 <= last[run]["data_wait_share"] <= 1
        assert last[run]["images_per_second"] > 0
        assert last[run]["peak_memory_mib"] > 50
    validation = last["two"]["validation/total_loss"]
    assert validation == pytest.approx(last["one"]["validation/total_loss"], rel=1e-3)
    scores = json.loads((squares / "two" / "scores.json").read_text())
    assert [iteration for iteration, _ in scores["scores"]] == [9, 19]
