"""Processes that predict: batches as large as the load, and no image lost when one dies."""

from concurrent.futures import CancelledError

import fake_work
import pytest

from deepfuse_d2.errors import PredictionError
from deepfuse_d2.serving import pool as pool_module
from deepfuse_d2.serving.pool import Pool, Task


@pytest.fixture
def make(monkeypatch):
    """A pool whose processes take milliseconds to start."""
    monkeypatch.setattr(pool_module, "work", fake_work.work)
    pools = []

    def build(names=("a",), workers=1, batch=3, timeout=60, **options):
        pools.append(
            Pool(dict.fromkeys(names), workers, 1, batch=batch, timeout=timeout, **options)
        )
        return pools[-1]

    yield build
    for pool in pools:
        pool.close()


def submitted(pool, *contents, model="a"):
    tasks = [Task(model, content, "rle", 0.0) for content in contents]
    for task in tasks:
        pool.submit(task)
    return tasks


def answers(tasks):
    return [task.future.result(300)[1].decode() for task in tasks]


def test_what_waits_while_a_process_is_busy_is_the_next_batch(make):
    sizes = []
    pool = make(watch=sizes.append)
    pool.wait_until_ready()
    (first,) = submitted(pool, b"slow")
    while not sizes:  # the process has it
        pass
    found = answers([first, *submitted(pool, b"1", b"2", b"3", b"4")])
    assert found == ["slow by a of 1", *(f"{k} by a of 3" for k in (1, 2, 3)), "4 by a of 1"]
    assert sizes == [1, 3, 1]


def test_a_batch_is_of_one_model_and_the_oldest_comes_first(make):
    pool = make(names=("a", "b"))
    tasks = submitted(pool, b"1") + submitted(pool, b"2", model="b") + submitted(pool, b"3")
    assert answers(tasks) == ["1 by a of 2", "2 by b of 1", "3 by a of 2"]


def test_of_a_batch_whose_process_died_each_is_tried_alone_and_the_deadly_one_is_an_error(make):
    pool = make()
    first, deadly, last = submitted(pool, b"1", b"deadly", b"3")
    assert answers([first, last]) == ["1 by a of 1", "3 by a of 1"]
    with pytest.raises(PredictionError, match="Three processes died, or were stuck"):
        deadly.future.result(300)
    pool.close()
    assert pool.restarts == 3


def test_a_process_that_is_stuck_is_replaced(make):
    pool = make(timeout=0.5)
    pool.wait_until_ready()
    stuck, other = submitted(pool, b"stuck", b"1")
    assert answers([other]) == ["1 by a of 1"]
    with pytest.raises(PredictionError, match="or were stuck"):
        stuck.future.result(300)


def test_what_nobody_waits_for_any_more_is_not_predicted(make):
    sizes = []
    pool = make(watch=sizes.append)
    pool.wait_until_ready()
    (first,) = submitted(pool, b"slow")
    while not sizes:
        pass
    gone, other = submitted(pool, b"gone", b"other")
    assert gone.future.cancel()
    assert answers([first, other])[1] == "other by a of 1"
    with pytest.raises(CancelledError):
        gone.future.result(1)


def test_closing_finishes_what_was_taken(make):
    pool = make(workers=2, batch=1)
    tasks = submitted(pool, *[b"slow"] * 6)
    pool.close()
    assert [task.future.done() for task in tasks] == [True] * 6
    assert answers(tasks) == ["slow by a of 1"] * 6


def test_a_model_that_cannot_be_loaded_says_why(make):
    with pytest.raises(PredictionError, match="the weights are damaged"):
        make(names=("unknown",)).wait_until_ready()


def test_processes_that_never_get_ready_are_not_replaced_for_ever(make):
    with pytest.raises(PredictionError, match=r"process was killed by SIGKILL.*before it"):
        make(names=("never ready",)).wait_until_ready()
