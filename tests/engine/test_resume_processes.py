"""Several processes go on together: each with its own random states and statistics."""

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from tiny_training import NAME, losses, make_data, start_ranks, tiny_config

from deepfuse_d2.engine.distributed.preemption import Preempted, PreemptionHandler

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
    assert_equal_trainings(tmp_path, whole)


def assert_equal_trainings(folder, whole):
    assert losses(folder) == losses(whole)
    found, expected = final(folder), final(whole)
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


class SlowForward(HookBase):
    """A forward pass of minutes in some processes, in which one of them gets a signal."""

    def __init__(self, ranks, signalled):
        self.ranks, self.signalled = ranks, signalled

    def before_step(self):
        is_due = comm.get_rank() in self.ranks and self.trainer.iter == 6
        self.trainer.checkpointer.model.fault = self.wait if is_due else None

    def wait(self, images):
        if comm.get_rank() == self.signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(6000):
            time.sleep(0.05)
        raise AssertionError("still here")


@pytest.mark.parametrize(
    ("ranks", "signalled"),
    [
        pytest.param([0, 1], 1, id="both slow"),
        pytest.param([0], 0, id="the other waits for the main one"),
        pytest.param([1], 1, id="the main one waits for the other"),
    ],
)
def test_a_step_that_does_not_end_is_given_up_by_all_and_nothing_before_it_is_lost(
    whole, tmp_path, ranks, signalled, monkeypatch
):
    monkeypatch.setattr(PreemptionHandler, "patience", 0.2)
    monkeypatch.setattr(PreemptionHandler, "stuck_after", 0.5)
    start = time.monotonic()
    run(tmp_path, hooks=[SlowForward(ranks, signalled)], expected=75)
    assert time.monotonic() - start < 30
    assert (tmp_path / "last_checkpoint").read_text() == "model_latest.pth"
    checkpoint = torch.load(tmp_path / "model_latest.pth", weights_only=True)
    assert checkpoint["iteration"] == 5
    assert len(checkpoint["trainer"]["resume"]["processes"]) == 2
    run(tmp_path, resume=True)
    assert_equal_trainings(tmp_path, whole)


class SlowToUpdate(HookBase):
    """Some processes get a signal between backward pass and update, and go on to that."""

    def __init__(self, ranks):
        self.ranks = ranks

    def before_train(self):
        self.update, self.trainer._trainer._update = self.trainer._trainer._update, self.wait

    def wait(self):
        if comm.get_rank() in self.ranks and self.trainer.iter == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            with suppress(Preempted):
                for _ in range(40):
                    time.sleep(0.05)
        self.update()


@pytest.mark.parametrize(("slow", "last"), [([1], 6), ([0, 1], 5)])
def test_an_update_that_one_process_has_begun_all_make_and_else_none(
    whole, tmp_path, slow, last, monkeypatch
):
    monkeypatch.setattr(PreemptionHandler, "patience", 0.2)
    run(tmp_path, hooks=[SlowToUpdate(slow)], expected=75)
    assert torch.load(tmp_path / "model_latest.pth", weights_only=True)["iteration"] == last
    run(tmp_path, resume=True)
    assert_equal_trainings(tmp_path, whole)


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
