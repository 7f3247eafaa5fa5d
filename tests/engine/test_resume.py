"""An interrupted training goes on as if it had not been interrupted, to the last bit."""

import json
import logging
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from tiny_training import (
    NAME,
    FaultAt,
    TinyEvaluator,
    TinyTrainer,
    in_another_process,
    losses,
    make_data,
    tiny_config,
    train,
)

from deepfuse_d2.config.flatten import flatten
from deepfuse_d2.engine.distributed.preemption import Preempted, PreemptionHandler
from deepfuse_d2.engine.resume.changes import changes
from deepfuse_d2.engine.resume.metric_history import last_written, trim_metrics
from deepfuse_d2.engine.resume.model_state import ForwardState
from deepfuse_d2.errors import ConfigError

# Of a machine, not of a training.
MEASURED = ("time", "eta", "images_per_second", "data_wait_share", "peak")


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    yield make_data(tmp_path_factory.mktemp("images"))
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Folder of a training that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(tiny_config(folder))
    return folder


def weights(folder):
    return torch.load(Path(folder, "model_final.pth"), weights_only=True)


def metrics(folder):
    rows = map(json.loads, Path(folder, "metrics.json").read_text().splitlines())
    return [
        {key: value for key, value in row.items() if not any(x in key for x in MEASURED)}
        for row in rows
    ]


def same(a, b):
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_equal_trainings(folder, whole):
    assert losses(folder) == losses(whole)
    assert metrics(folder) == metrics(whole)
    found, expected = weights(folder), weights(whole)
    assert same(found["model"], expected["model"])
    found, expected = found["trainer"], expected["trainer"]
    assert same(found["_trainer"]["optimizer"], expected["_trainer"]["optimizer"])
    assert same(found["resume"]["processes"], expected["resume"]["processes"])
    assert same(found["resume"]["loaders"], expected["resume"]["loaders"])


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(whole, tmp_path):
    generator = random.Random(0)
    cfg = tiny_config(tmp_path)
    log = tmp_path / "losses.txt"
    kills = 0
    for _ in range(6):
        steps = generator.randint(0, 6)
        done = len(log.read_text().splitlines()) if log.exists() else 0
        with in_another_process(cfg, resume=True) as process:
            for _ in range(6000):
                if log.exists() and len(log.read_text().splitlines()) >= done + steps:
                    break
                time.sleep(0.001)
            # within a step, a write, an evaluation, or between them
            time.sleep(generator.uniform(0, 0.01))
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
    assert kills >= 3  # on a slow machine a process may come to its end before
    train(cfg, resume=True)
    assert_equal_trainings(tmp_path, whole)
    assert not list(tmp_path.glob("*.tmp"))


class Stop(HookBase):
    """Ends a training behind its last hook, as a crash there does."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise RuntimeError("crashed")


@pytest.mark.parametrize(
    "iteration",
    [
        3,  # before the first checkpoint: from the start again
        4,  # right after a checkpoint
        7,  # right after an evaluation
        8,  # its result waits to be written
        17,
    ],
)
def test_resumed_from_anywhere_it_is_the_same_training(whole, tmp_path, iteration):
    cfg = tiny_config(tmp_path)
    with pytest.raises(RuntimeError, match="crashed"):
        train(cfg, hooks=[Stop(iteration)])
    train(cfg, resume=True)
    assert_equal_trainings(tmp_path, whole)


def test_with_worker_processes_it_is_the_same_training(whole, tmp_path):
    cfg = tiny_config(tmp_path, "DATALOADER.NUM_WORKERS", 2)
    with pytest.raises(RuntimeError, match="crashed"):
        train(cfg, hooks=[Stop(11)])
    train(tiny_config(tmp_path, "DATALOADER.NUM_WORKERS", 1), resume=True)
    assert_equal_trainings(tmp_path, whole)


class CrashInEvaluation(TinyTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        raise RuntimeError("no evaluation today")


def test_a_crash_in_an_evaluation_costs_nothing_but_the_evaluation(whole, tmp_path):
    cfg = tiny_config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 100)
    with pytest.raises(RuntimeError, match="no evaluation today"):
        train(cfg, kind=CrashInEvaluation)
    assert (tmp_path / "last_checkpoint").read_text() == "model_latest.pth"
    steps = []

    class Count(HookBase):
        def before_step(self):
            steps.append(self.trainer.iter)

    train(cfg, resume=True, hooks=[Count()])
    assert steps[0] == 8  # and the evaluation after iteration 7 was made up for
    assert_equal_trainings(tmp_path, whole)


class SendSignal(HookBase):
    def __init__(self, iteration, number):
        self.iteration, self.number = iteration, number

    def before_step(self):
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_warning_of_the_cluster_writes_a_checkpoint_and_leaves_with_its_code(
    whole, tmp_path, number, caplog
):
    cfg = tiny_config(tmp_path, "DEEPFUSE_D2.SOLVER.SAFETY.EXIT_CODE", 99)
    former = signal.getsignal(number)
    with pytest.raises(Preempted) as caught:
        train(cfg, hooks=[SendSignal(11, number)])
    assert caught.value.code == 99
    assert signal.getsignal(number) is former
    assert f"{number.name}: all that was done is in a checkpoint; leaving with exit" in caplog.text
    assert (tmp_path / "last_checkpoint").read_text() == "model_latest.pth"
    assert max(losses(tmp_path)) == 11
    train(cfg, resume=True)
    assert_equal_trainings(tmp_path, whole)


def test_a_process_that_is_told_to_stop_exits_with_the_code(tmp_path):
    cfg = tiny_config(tmp_path, "SOLVER.MAX_ITER", 10**6, "TEST.EVAL_PERIOD", 0)
    with in_another_process(cfg) as process:
        for _ in range(3000):
            if (tmp_path / "losses.txt").exists():
                break
            time.sleep(0.01)
        process.terminate()
        process.join(30)
        assert process.exitcode == 75
    # model_latest, or a periodic one where the signal came right before that
    written = tmp_path / (tmp_path / "last_checkpoint").read_text()
    checkpoint = torch.load(written, weights_only=True)
    assert checkpoint["iteration"] == max(losses(tmp_path))


def test_before_the_first_step_there_is_nothing_to_write(tmp_path):
    class AtOnce(HookBase):
        def before_train(self):
            os.kill(os.getpid(), signal.SIGTERM)

    cfg = tiny_config(tmp_path)
    with pytest.raises(Preempted):
        train(cfg, hooks=[AtOnce()])
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize("last", [False, True])
def test_in_an_evaluation_a_warning_is_followed_at_once(whole, tmp_path, last):
    class Evaluator(TinyEvaluator):
        calls = 0

        def evaluate(self):
            Evaluator.calls += 1
            if Evaluator.calls == (3 if last else 1):
                os.kill(os.getpid(), signal.SIGTERM)
                raise AssertionError("still here")
            return super().evaluate()

    class Warned(TinyTrainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return Evaluator()

    cfg = tiny_config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 100)
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        train(cfg, kind=Warned)
    assert signal.getsignal(signal.SIGTERM) is former
    train(cfg, resume=True)
    assert_equal_trainings(tmp_path, whole)


class Patience(HookBase):
    """A hook with a state, of which a training may have two."""

    def __init__(self):
        self.seen = 0

    def after_step(self):
        self.seen += 1

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


class Average:
    """What joins by name: here a moving average of a weight."""

    value = 0.0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_hooks_and_checkpointables_keep_their_states(tmp_path):
    def prepare(resume):
        trainer = TinyTrainer(tiny_config(tmp_path, "TEST.EVAL_PERIOD", 0))
        trainer.patient, trainer.other = Patience(), Patience()
        trainer.other.seen = 0 if resume else 100
        trainer.average = Average()
        trainer.checkpointer.add_checkpointable("average", trainer.average)
        trainer.register_hooks([trainer.patient, trainer.other])
        trainer.resume_or_load(resume=resume)
        return trainer

    first = prepare(False)
    first.average.value = 0.5
    first.register_hooks([Stop(11)])
    with pytest.raises(RuntimeError, match="crashed"):
        first.train()
    second = prepare(True)
    assert second.start_iter == 10
    # the checkpoint was written before they had counted iteration 9
    assert (second.patient.seen, second.other.seen) == (9, 109)
    assert second.average.value == 0.5
    second.train()
    assert (second.patient.seen, second.other.seen) == (24, 124)


def test_a_changed_schedule_and_batch_are_reported_and_count_from_there(tmp_path, caplog):
    with pytest.raises(RuntimeError, match="crashed"):
        train(tiny_config(tmp_path), hooks=[Stop(10)])
    caplog.set_level(logging.WARNING)
    overrides = ["SOLVER.BASE_LR", 0.01, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.STEPS", (12,)]
    overrides += ["DATALOADER.NUM_WORKERS", 1, "SOLVER.CHECKPOINT_PERIOD", 6]
    trainer = train(tiny_config(tmp_path, *overrides), resume=True)
    (message,) = [
        record.getMessage()
        for record in caplog.records
        if "--resume goes on" in record.getMessage()
    ]
    assert message.splitlines()[1:] == [
        "  SOLVER.BASE_LR was 0.05, is 0.01",
        "  SOLVER.IMS_PER_BATCH was 4, is 2 (counted in iterations, the schedule now sees another "
        "number of images)",
        "  SOLVER.STEPS was [16], is [12]",
        "  learning rate of iteration 10 was 0.05, is 0.01",
    ]
    rates = {i: float.fromhex(row[2]) for i, row in losses(tmp_path).items()}
    assert rates[9] == 0.05
    assert rates[10] == rates[11] == 0.01
    assert rates[12] == pytest.approx(0.001)
    # 40 samples in 10 batches of 4, then two an iteration: the order of the data went on
    assert trainer._trainer.data_loader.state_dict()["position"] >= 40 + 28


def test_an_unchanged_config_is_not_reported(tmp_path, caplog):
    with pytest.raises(RuntimeError, match="crashed"):
        train(tiny_config(tmp_path), hooks=[Stop(5)])
    train(tiny_config(tmp_path), resume=True)
    assert "--resume goes on" not in caplog.text


def test_another_optimizer_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(RuntimeError, match="crashed"):
        train(tiny_config(tmp_path), hooks=[Stop(5)])
    with pytest.raises(ConfigError, match=r"OPTIMIZER was SGD, is AdamW.*leave out --resume"):
        train(tiny_config(tmp_path, "DEEPFUSE_D2.SOLVER.OPTIMIZER", "AdamW"), resume=True)


def test_another_grouping_of_parameters_keeps_each_its_own_momentum(tmp_path, caplog):
    with pytest.raises(RuntimeError, match="crashed"):
        train(tiny_config(tmp_path), hooks=[Stop(5)])
    saved = torch.load(tmp_path / "model_0000004.pth", weights_only=True)["trainer"]
    names = saved["resume"]["parameters"]
    states = saved["_trainer"]["optimizer"]["state"]
    momentum = {name: states[i]["momentum_buffer"] for i, name in enumerate(names)}
    assert len(momentum) == 6

    # biases first and in a group of their own
    trainer = TinyTrainer(tiny_config(tmp_path, "SOLVER.BIAS_LR_FACTOR", 2.0))
    assert len(trainer.optimizer.param_groups) != len(
        saved["_trainer"]["optimizer"]["param_groups"]
    )
    trainer.resume_or_load(resume=True)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(trainer.optimizer.state[parameter]["momentum_buffer"], momentum[name])
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert max(rates) == pytest.approx(2 * min(rates))
    assert "SOLVER.BIAS_LR_FACTOR was 1.0, is 2.0" in caplog.text


def test_an_old_checkpoint_goes_on_with_a_word_of_warning(tmp_path, caplog):
    with pytest.raises(RuntimeError, match="crashed"):
        train(tiny_config(tmp_path), hooks=[Stop(5)])
    path = tmp_path / "model_0000004.pth"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["trainer"]["resume"]
    torch.save(checkpoint, path)
    train(tiny_config(tmp_path), resume=True)
    assert "not as it would have without the interruption" in caplog.text
    assert max(losses(tmp_path)) == 23


def test_a_finished_training_is_evaluated_again_and_nothing_else(whole, tmp_path):
    cfg = tiny_config(tmp_path)
    train(cfg)
    before = weights(tmp_path)
    train(cfg, resume=True)
    assert same(weights(tmp_path)["model"], before["model"])
    assert metrics(tmp_path) == metrics(whole)


def test_only_what_matters_counts_as_a_change(tmp_path):
    was = flatten(tiny_config(tmp_path / "a"))
    now = flatten(
        tiny_config(tmp_path / "b", "DATALOADER.NUM_WORKERS", 3, "MODEL.WEIGHTS", "x.pth")
    )
    assert changes(was, now) == {}
    now["SOLVER.GAMMA"] = 0.5
    now["A.NEW_KEY"] = 1
    assert changes(was, now) == {"SOLVER.GAMMA": (0.1, 0.5)}


def test_lines_of_iterations_to_come_are_cut_off_while_the_file_is_open(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("".join(json.dumps({"iteration": i}) + "\n" for i in (2, 5, 8)) + '{"iter')
    with open(path, "a") as writer:
        assert trim_metrics(path, 5) == 2
        writer.write('{"iteration": 8}\n')
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [2, 5, 8]
    assert trim_metrics(path, 8) == 0
    assert trim_metrics(tmp_path / "none.json", 8) == 0


@pytest.mark.parametrize(("done", "expected"), [(0, -1), (1, -1), (2, 2), (4, 2), (5, 5)])
def test_what_writers_have_written_follows_from_their_period(done, expected):
    from detectron2.engine.hooks import PeriodicWriter

    assert last_written([PeriodicWriter([], period=3)], done) == expected


def test_statistics_and_averages_of_forward_passes_are_put_back():
    from detectron2.modeling.meta_arch.dense_detector import DenseDetector

    class Detector(DenseDetector):
        def __init__(self):
            torch.nn.Module.__init__(self)

    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2), Detector())
    state = ForwardState(model)
    state.keep()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    for _ in range(2):
        model[0](torch.randn(4, 2, 3, 3))
        model[1].loss_normalizer = 3.0
        kept = state.state_dict(with_buffers=True)
        state.put_back()
        assert same(dict(model.state_dict()), before)
        assert not hasattr(model[1], "loss_normalizer")
    other = torch.nn.Sequential(torch.nn.BatchNorm2d(2), Detector())
    ForwardState(other).load_state_dict(kept)
    assert other[1].loss_normalizer == 3.0
    assert torch.equal(other[0].running_mean, kept["buffers"]["0.running_mean"])
    assert not torch.equal(other[0].running_mean, torch.zeros(2))


class NeverEnds(torch.autograd.Function):
    """Its backward pass sends a signal, and then takes until the signal is obeyed."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.6)  # some of C's time; the gradients of earlier layers follow
        return gradient


def _slow_forward(x):
    """A forward pass of minutes, in which the signal comes."""
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(6000):
        time.sleep(0.05)
    raise AssertionError("still here")


@pytest.mark.parametrize("part", ["forward", "backward"])
def test_a_step_that_does_not_end_is_given_up_and_nothing_before_it_is_lost(
    whole, tmp_path, part, monkeypatch
):
    monkeypatch.setattr(PreemptionHandler, "patience", 0.3)
    fault = _slow_forward
    if part == "backward":
        # behind the layer that is first in the backward pass, before those that follow
        def fault(x):
            return x

        head = torch.nn.Linear.forward
        monkeypatch.setattr(
            torch.nn.Linear, "forward",
            lambda self, x: head(self, NeverEnds.apply(x) if slow[0] and self.training else x),
        )  # fmt: skip
    slow = [False]

    class Slow(FaultAt):
        def before_step(self):
            super().before_step()
            slow[0] = self.trainer.iter == 11

    cfg = tiny_config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 100)
    start = time.monotonic()
    with pytest.raises(Preempted) as caught:
        train(cfg, hooks=[Slow([11], fault)])
    assert caught.value.__context__ is None  # which would hold the step, and its loader's workers
    assert time.monotonic() - start < 20
    assert (tmp_path / "last_checkpoint").read_text() == "model_latest.pth"
    assert torch.load(tmp_path / "model_latest.pth", weights_only=True)["iteration"] == 10
    slow[0] = False
    train(cfg, resume=True)
    assert_equal_trainings(tmp_path, whole)


def test_an_update_that_has_begun_is_finished_when_a_signal_comes(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(PreemptionHandler, "patience", 0.1)

    class SlowUpdate(HookBase):
        def before_train(self):
            self.trainer.optimizer.register_step_post_hook(self.wait)

        def wait(self, *_):
            if self.trainer.iter == 11:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.3)

    cfg = tiny_config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 100)
    with pytest.raises(Preempted):
        train(cfg, hooks=[SlowUpdate()])
    assert torch.load(tmp_path / "model_latest.pth", weights_only=True)["iteration"] == 11
    train(cfg, resume=True)
    assert_equal_trainings(tmp_path, whole)
