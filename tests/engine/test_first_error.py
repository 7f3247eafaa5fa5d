"""The first error is the one that is told; a training that is finished says so."""

import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from tiny_training import NAME, FaultAt, make_data, tiny_config, train

from deepfuse_d2.errors import TrainingError


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    yield make_data(tmp_path_factory.mktemp("images"))
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.mark.parametrize("iteration", [0, 1, 2, 3])
def test_a_divergence_in_the_first_iterations_is_told_whatever_is_written(tmp_path, iteration):
    cfg = tiny_config(tmp_path, "MONITOR.PERIOD", 1, "MONITOR.WRITERS", ["console", "json"])
    fault = FaultAt([iteration], lambda x: x * float("nan"))
    with pytest.raises(TrainingError, match=rf"Iteration {iteration}: .* not finite"):
        train(cfg, hooks=[fault])


class Broken(HookBase):
    """Fails in its own clean-up."""

    def after_train(self):
        raise ZeroDivisionError("while cleaning up")


class Cleaned(HookBase):
    done = False

    def after_train(self):
        type(self).done = True


class FailsAtFirst(HookBase):
    def before_train(self):
        raise OSError("no space for the start")


@pytest.mark.parametrize(
    ("hook", "kind", "message"),
    [
        (FaultAt([2], lambda x: torch.zeros(3) @ torch.zeros(4)), RuntimeError, "size"),
        (FailsAtFirst(), OSError, "no space for the start"),
    ],
)
def test_a_clean_up_that_fails_too_is_told_but_not_in_place_of_the_reason(
    tmp_path, caplog, hook, kind, message
):
    Cleaned.done = False
    with pytest.raises(kind, match=message):
        train(tiny_config(tmp_path), hooks=[hook, Broken(), Cleaned()])
    assert "Broken could not clean up: ZeroDivisionError: while cleaning up" in caplog.text
    assert Cleaned.done


def test_a_clean_up_that_fails_after_a_complete_training_is_an_error(tmp_path):
    cfg = tiny_config(tmp_path, "SOLVER.MAX_ITER", 2)
    with pytest.raises(ZeroDivisionError, match="while cleaning up"):
        train(cfg, hooks=[Broken()])


def test_a_finished_training_says_so_on_resume(tmp_path, caplog):
    cfg = tiny_config(tmp_path, "SOLVER.MAX_ITER", 3)
    train(cfg)
    assert "is finished" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        train(cfg, resume=True)
    assert "is finished: it has its 3 iterations" in caplog.text
    assert "raise SOLVER.MAX_ITER (3)" in caplog.text
