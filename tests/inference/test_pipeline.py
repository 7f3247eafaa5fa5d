"""Batches by shape, results in order, three steps at once."""

import itertools
import threading
import time

import pytest

from deepfuse_d2.inference.pipeline import ordered_batches


class Machine:
    """Records its batches; items are strings whose length is their shape."""

    def __init__(self, **options):
        self.batches = []
        self.options = {"shape": len, "batch_size": 3, "workers": 2, **options}

    def run(self, batch):
        self.batches.append(list(batch))
        return [x.upper() for x in batch]

    def __call__(self, items, prepare=str, finish=lambda prepared, raw: (prepared, raw)):
        return ordered_batches(items, prepare, self.run, finish, **self.options)


def test_results_come_in_order_and_batches_hold_one_shape():
    machine = Machine()
    items = ["a", "bb", "c", "dd", "e", "f", "ggg", "hh", "i", "j"]
    assert list(machine(items)) == [(x, x.upper()) for x in items]
    assert all(len({len(x) for x in batch}) == 1 for batch in machine.batches)
    assert machine.batches[0] == ["a", "c", "e"]
    assert max(map(len, machine.batches)) == 3
    assert sorted(itertools.chain(*machine.batches)) == sorted(items)


def test_an_odd_one_does_not_wait_for_others_of_its_shape_for_ever():
    machine = Machine()
    stream = machine("x" if i else "odd" for i in itertools.count())
    assert next(stream) == ("odd", "ODD")
    assert sum(map(len, machine.batches)) < 20
    stream.close()


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_slow_steps_of_any_speed_keep_the_order(workers, batch_size):
    machine = Machine(workers=workers, batch_size=batch_size)

    def slow(item, *more):
        time.sleep(0.001 * (hash(item) % 5))
        return (item, *more) if more else item

    items = [f"{i:02}" for i in range(30)]
    assert [a for a, _ in machine(items, slow, slow)] == items


def test_an_error_is_raised_where_its_result_would_have_come():
    def prepare(item):
        if item == "bad":
            raise ValueError("bad item")
        return item

    stream = Machine(batch_size=1)(["a", "b", "bad", "c"], prepare)
    assert [next(stream)[0], next(stream)[0]] == ["a", "b"]
    with pytest.raises(ValueError, match="bad item"):
        next(stream)


def test_an_error_of_the_network_or_the_source_is_raised_as_it_is():
    def source():
        yield "a"
        raise OSError("camera gone")

    stream = Machine()(source())
    assert next(stream) == ("a", "A")
    with pytest.raises(OSError, match="camera gone"):
        next(stream)
    machine = Machine()
    machine.run = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(machine(["a"]))


def test_steps_overlap():
    """The first item is finished only after the third is prepared: one after another would hang."""
    third = threading.Event()

    def prepare(item):
        if item == "3":
            third.set()
        return item

    def finish(prepared, raw):
        assert third.wait(timeout=10)
        return prepared

    assert list(Machine(batch_size=1)(["1", "2", "3"], prepare, finish)) == ["1", "2", "3"]


def test_nothing_is_read_far_ahead_and_no_thread_is_left():
    read = []

    def source():
        for i in range(1000):
            read.append(i)
            yield str(i % 10)

    before = threading.active_count()
    stream = Machine(batch_size=2)(source())
    next(stream)
    assert len(read) < 20
    stream.close()
    assert threading.active_count() == before
    assert list(Machine()([])) == []
