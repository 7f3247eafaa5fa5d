"""The best model and the end of patience, across interruptions."""

import contextlib
import json
import math
import weakref

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.engine.train_loop import TrainerBase

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.engine import load_config
from deepfuse_d2.engine.hooks import (
    BestCheckpoint,
    EarlyStopping,
    Scores,
    TrainingStopped,
    build_monitor_hooks,
)
from deepfuse_d2.errors import ConfigError


class Killed(BaseException):
    """As a signal would, it ends the training without a word."""


class Loop(TrainerBase):
    """A training whose weight is the number of steps taken; evaluated every 2, saved every 4."""

    def __init__(self, folder, score, *, patience=0, mode="max", min_delta=0.0, killed_at=None):
        super().__init__()
        self.model = torch.nn.Linear(1, 1, bias=False)
        self.model.weight.data.zero_()
        self.checkpointer = DeepFuseCheckpointer(
            self.model, str(folder), trainer=weakref.proxy(self)
        )
        self.killed_at = killed_at
        self.steps = []
        self.evaluated = []
        scores = Scores("val/score", mode, folder / "scores.json")
        hooks = [
            PeriodicCheckpointer(self.checkpointer, 4),
            EvalHook(2, lambda: self.evaluate(score)),
            BestCheckpoint(scores, (2,), self.checkpointer),
        ]
        if patience:
            hooks.append(EarlyStopping(scores, (2,), patience, min_delta))
        self.register_hooks(hooks)

    def evaluate(self, score):
        self.evaluated.append(round(self.model.weight.item()))
        return {"val": {"score": score(self.evaluated[-1])}}

    def run_step(self):
        self.steps.append(self.iter)
        with torch.no_grad():
            self.model.weight += 1
        if self.iter == self.killed_at:
            raise Killed

    def go(self, max_iter, resume=False):
        self.checkpointer.resume_or_load("", resume=resume)
        resumes = resume and self.checkpointer.has_checkpoint()
        with contextlib.suppress(TrainingStopped, Killed):
            self.train(self.iter + 1 if resumes else 0, max_iter)
        return self


def best_weight(folder):
    return torch.load(folder / "model_best.pth", weights_only=True)["model"]["weight"].item()


SCORES = {2: 1.0, 4: 5.0, 6: 3.0, 8: 2.0, 10: 4.0, 12: 6.0}


def test_the_best_model_is_kept_and_training_resumes_from_the_last(tmp_path):
    Loop(tmp_path, SCORES.get).go(10)
    assert best_weight(tmp_path) == 4
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert json.loads((tmp_path / "scores.json").read_text())["metric"] == "val/score"


def test_less_is_better_in_mode_min(tmp_path):
    Loop(tmp_path, lambda step: -SCORES[step], mode="min").go(10)
    assert best_weight(tmp_path) == 4


def test_a_resumed_training_knows_its_best(tmp_path):
    # The checkpoint of step 4 was written before the evaluation of step 4.
    Loop(tmp_path, SCORES.get, killed_at=4).go(10)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    resumed = Loop(tmp_path, SCORES.get).go(10, resume=True)
    assert resumed.steps == [4, 5, 6, 7, 8, 9]
    assert best_weight(tmp_path) == 4
    longer = Loop(tmp_path, SCORES.get).go(12, resume=True)
    assert longer.steps == [10, 11]
    assert best_weight(tmp_path) == 12


def test_a_new_training_in_the_same_folder_starts_from_nothing(tmp_path):
    Loop(tmp_path, SCORES.get).go(4)
    Loop(tmp_path, lambda step: 0.5).go(2)
    assert best_weight(tmp_path) == 2


def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path):
    scores = {2: math.nan, 4: 1.0, 6: math.nan, 8: math.inf}
    Loop(tmp_path, scores.get).go(8)
    assert best_weight(tmp_path) == 4


def test_the_model_is_written_before_its_score(tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def fail(*_):
        raise Stop

    monkeypatch.setattr(Scores, "add", fail)
    with pytest.raises(Stop):
        Loop(tmp_path, SCORES.get).go(4)
    assert best_weight(tmp_path) == 2
    assert not (tmp_path / "scores.json").exists()


def test_a_full_disk_leaves_the_best_model_before(tmp_path, monkeypatch, caplog):
    loop = Loop(tmp_path, SCORES.get)
    save = loop.checkpointer.save

    def full(name, **kwargs):
        if name == "model_best" and kwargs["score"] == 5.0:
            raise OSError(28, "No space left on device")
        save(name, **kwargs)

    monkeypatch.setattr(loop.checkpointer, "save", full)
    loop.go(6)
    assert "val/score is 5, the best so far, but the model could not be written" in caplog.text
    # what could not be written is not taken for the best: 3.0 at step 6 beats 1.0 at step 2
    assert best_weight(tmp_path) == 6


def test_patience_ends_a_training_as_its_last_iteration_would(tmp_path):
    # the best is of step 4; 6 and 8 are no better
    loop = Loop(tmp_path, SCORES.get, patience=2).go(12)
    assert loop.steps == list(range(8))
    assert loop.max_iter == 8
    assert loop.evaluated[-1] == 8
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["model"]["weight"].item() == 8
    assert final["iteration"] == 7
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert best_weight(tmp_path) == 4


def test_patience_counts_on_in_a_resumed_training(tmp_path):
    # killed in step 7; resumed after step 4, whose evaluation and that of step 6 were made
    Loop(tmp_path, SCORES.get, patience=2, killed_at=6).go(12)
    resumed = Loop(tmp_path, SCORES.get, patience=2).go(12, resume=True)
    assert resumed.steps == [4, 5, 6, 7]
    assert resumed.evaluated == [6, 8, 8]


def test_scores_after_the_checkpoint_of_a_killed_training_do_not_use_up_patience(tmp_path):
    # 6 was already evaluated when it was killed; if it still counted, 3 would be reached at 6
    Loop(tmp_path, SCORES.get, patience=2, killed_at=7).go(12)
    scores = Scores("val/score", "max", tmp_path / "scores.json")
    scores.load()
    assert [scores.stale(until) for until in (1, 3, 5, 7, 9)] == [0, 0, 1, 1, 1]
    resumed = Loop(tmp_path, SCORES.get, patience=1).go(12, resume=True)
    assert resumed.steps == [4, 5]


def test_a_training_that_was_stopped_is_not_taken_up_again_without_more_patience(tmp_path):
    Loop(tmp_path, SCORES.get, patience=2).go(12)
    again = Loop(tmp_path, SCORES.get, patience=2).go(12, resume=True)
    assert again.steps == []
    assert again.max_iter == 8
    more = Loop(tmp_path, SCORES.get, patience=4).go(12, resume=True)
    assert more.steps == [8, 9, 10, 11]
    assert best_weight(tmp_path) == 12


def test_a_gain_below_min_delta_does_not_renew_patience(tmp_path):
    scores = {2: 1.0, 4: 1.1, 6: 1.2, 8: 1.3, 10: 1.4}
    loop = Loop(tmp_path, scores.get, patience=2, min_delta=0.25).go(10)
    assert loop.steps == list(range(6))
    assert best_weight(tmp_path) == 6  # the best is the best, however little it gained


def test_a_metric_that_nothing_gives_is_named_with_those_there_are(tmp_path, caplog):
    loop = Loop(tmp_path, SCORES.get)
    loop._hooks[2].scores.metric = "segm/AP50"
    loop.go(2)
    assert 'No evaluation gave a score named "segm/AP50" (MONITOR.METRIC)' in caplog.text
    assert "val/score" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MONITOR.PERIOD", "0"], r"MONITOR.PERIOD is 0,.*1 or more for the first"),
        (["MONITOR.PATIENCE", "3"], "PATIENCE is 3, but no score is watched: name one"),
        (["MONITOR.PATIENCE", "3", "MONITOR.METRIC", "segm/AP"], "nothing is evaluated before"),
        (["MONITOR.METRIC", "validation/total_loss"], "no validation loss is computed"),
        (["MONITOR.METRIC", "segm/AP", "MONITOR.MODE", "more"], 'MODE = "more" is unknown'),
        (
            ["MONITOR.METRIC", "x", "MONITOR.PATIENCE", "-1", "TEST.EVAL_PERIOD", "5"],
            "PATIENCE is -1 evaluations and MIN_DELTA 0.0; early stopping takes 1 or more",
        ),
        (["MONITOR.METRIC", "ema/segm/AP"], "averaged weights, which are not evaluated: set MODEL"),
    ],
)
def test_what_cannot_be_watched_is_refused(tmp_path, opts, message):
    cfg = load_config("", ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), *opts])
    with pytest.raises(ConfigError, match=message):
        build_monitor_hooks(cfg, torch.nn.Linear(1, 1), None)


def test_the_hooks_of_a_config_stand_in_the_order_they_need(tmp_path):
    opts = ["MONITOR.METRIC", "validation/total_loss", "MONITOR.MODE", "min"]
    opts += ["MONITOR.PATIENCE", "3", "MONITOR.VALIDATION_LOSS_PERIOD", "5"]
    cfg = load_config("", ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), *opts])
    hooks = build_monitor_hooks(cfg, torch.nn.Linear(1, 1), None)
    names = [type(hook).__name__ for hook in hooks]
    assert names == [
        "Throughput", "PeakMemory", "ValidationLoss", "BestCheckpoint", "EarlyStopping",
    ]  # fmt: skip
    assert all(isinstance(hook, HookBase) for hook in hooks)
