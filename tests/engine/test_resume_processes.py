"""Several processes go on together: each with its own random states and statistics."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from tiny_training import NAME, losses, make_data, start_ranks, tiny_config

SHORT = ["SOLVER.MAX_ITER", 12, "TEST.EVAL_PERIOD", 0, "MODEL.DEVICE", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    yield make_data(tmp_path_factory.mktemp("images"))
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def run(folder, *overrides, processes=2, expected=0, **kwargs):
    """Train in processes to the end; returns what the main one's weights then are."""
    started = start_ranks(
        processes, folder / "rendezvous", tiny_config(folder, *SHORT, *overrides), **kwargs
    )
    deadline = time.monotonic() + 120
    for process in started:
        process.join(max(deadline - time.monotonic(), 0.1))
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [expected] * processes


def final(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


class SignalTo(HookBase):
    """A signal to one of the processes."""

    def __init__(self, rank, iteration):
        self.rank, self.iteration = rank, iteration

    def after_step(self):
        if comm.get_rank() == self.rank and self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_warning_to_one_process_stops_all_and_they_go_on_as_before(whole, tmp_path):
    run(tmp_path, hooks=[SignalTo(1, 6)], expected=75)
    checkpoint = torch.load(tmp_path / "model_latest.pth", weights_only=True)
    states = checkpoint["trainer"]["resume"]["processes"]
    assert checkpoint["iteration"] == 6
    assert not torch.equal(states[0]["random"]["torch"], states[1]["random"]["torch"])
    # of batch norms that are not synchronised each process has statistics of its own
    mean = states[1]["forward"]["buffers"]["norm.running_mean"]
    assert not torch.equal(mean, checkpoint["model"]["norm.running_mean"])

    run(tmp_path, resume=True)
    assert losses(tmp_path) == losses(whole)
    found, expected = final(tmp_path), final(whole)
    for name, value in expected["model"].items():
        assert torch.equal(found["model"][name], value)
    for ours, theirs in zip(
        found["trainer"]["resume"]["processes"],
        expected["trainer"]["resume"]["processes"],
        strict=True,
    ):
        assert torch.equal(ours["random"]["torch"], theirs["random"]["torch"])
        for name, value in theirs["forward"]["buffers"].items():
            assert torch.equal(ours["forward"]["buffers"][name], value)


class PoisonOne(HookBase):
    def before_step(self):
        is_due = comm.get_rank() == 1 and self.trainer.iter == 5
        self.trainer.checkpointer.model.fault = (lambda x: x * float("nan")) if is_due else None


class Statistics(HookBase):
    """Writes the norm's mean of each process after each iteration."""

    def after_step(self):
        name = f"mean_{comm.get_rank()}_{self.trainer.iter}.pt"
        mean = self.trainer.checkpointer.model.norm.running_mean.clone()
        torch.save(mean, Path(self.trainer.cfg.OUTPUT_DIR, name))


def test_an_iteration_that_one_process_skips_all_skip(whole, tmp_path):
    run(tmp_path, "DEEPFUSE_D2.SOLVER.SAFETY.NONFINITE", "skip", hooks=[PoisonOne(), Statistics()])
    for rank in range(2):
        means = [torch.load(tmp_path / f"mean_{rank}_{i}.pt", weights_only=True) for i in (4, 5, 6)]
        assert torch.equal(means[0], means[1])
        assert not torch.equal(means[1], means[2])
    found, before = losses(tmp_path), losses(whole)
    assert [found[i] for i in range(5)] == [before[i] for i in range(5)]
    assert all(torch.isfinite(x).all() for x in final(tmp_path)["model"].values())
    (kept,) = (tmp_path / "faults").iterdir()
    assert re.fullmatch(r"nonfinite_0000005_rank1\.pth", kept.name)


def test_another_number_of_processes_goes_on_in_the_same_order_of_images(whole, tmp_path):
    run(tmp_path, hooks=[SignalTo(0, 6)], expected=75)
    run(tmp_path, processes=1, resume=True)
    (ours,) = final(tmp_path)["trainer"]["resume"]["loaders"]
    (theirs,) = final(whole)["trainer"]["resume"]["loaders"]
    assert ours == theirs
