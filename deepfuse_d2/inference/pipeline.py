"""Work in three steps that overlap: threads before, the network in batches, threads after."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["ordered_batches"]


def ordered_batches(
    items: Iterable[Any],
    prepare: Callable[[Any], Any],
    run: Callable[[list[Any]], list[Any]],
    finish: Callable[[Any, Any], Any],
    *,
    shape: Callable[[Any], Hashable],
    batch_size: int,
    workers: int,
) -> Iterator[Any]:
    """Yield ``finish(prepared, run(prepared))`` of each item, in their order.

    `prepare` and `finish` run in threads, `run` in the thread of the caller, while the next items
    are prepared and the last ones finished. What `prepare`, `run` or `finish` raises is raised
    where its result would have come.

    Args:
        items: may be endless; it is read a few batches ahead.
        shape: of what was prepared; only what is of one shape goes into a batch.
        batch_size: at most; a batch is smaller if no more of its shape is among the next
            3 x `batch_size` items.
        workers: threads for each of the two steps.
    """
    ahead = max(2 * workers, 3 * batch_size)
    source = iter(items)
    reading: deque[tuple[int, Future]] = deque()
    waiting: dict[Hashable, list[tuple[int, Any]]] = {}
    results: dict[int, Future] = {}
    started = given = 0
    seen = -1  # the last that is prepared
    exhausted = False
    before = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    after = ThreadPoolExecutor(workers, thread_name_prefix="finish")

    def launch(group: list[tuple[int, Any]]) -> None:
        try:
            raw = run([prepared for _, prepared in group])
        except Exception as error:
            for number, _ in group:
                results[number] = _failed(error)
            return
        for (number, prepared), one in zip(group, raw, strict=True):
            results[number] = after.submit(finish, prepared, one)

    try:
        while True:
            while not exhausted and started - given < ahead + workers and len(reading) < ahead:
                try:
                    item = next(source)
                except StopIteration:
                    exhausted = True
                    break
                except Exception as error:
                    # a source that fails ends behind what it gave before
                    results[started] = _failed(error)
                    started, exhausted = started + 1, True
                    break
                reading.append((started, before.submit(prepare, item)))
                started += 1
            if reading:
                number, future = reading.popleft()
                seen = number
                if future.exception() is not None:
                    results[number] = future
                else:
                    prepared = future.result()
                    group = waiting.setdefault(shape(prepared), [])
                    group.append((number, prepared))
                    if len(group) == batch_size:
                        launch(waiting.pop(shape(prepared)))
            if waiting:
                # the one that keeps all later ones waiting; or nothing is left to fill it up
                key = min(waiting, key=lambda k: waiting[k][0][0])
                if not reading or seen - waiting[key][0][0] >= 3 * batch_size - 1:
                    launch(waiting.pop(key))
            # while more can be run, only what is finished already goes out
            idle = not reading and not waiting
            while given in results and (
                idle or results[given].done() or started - given >= ahead + workers
            ):
                yield results.pop(given).result()
                given += 1
            if exhausted and given == started:
                return
    finally:
        for pool in (before, after):
            pool.shutdown(wait=True, cancel_futures=True)


def _failed(error: Exception) -> Future:
    future: Future = Future()
    future.set_exception(error)
    return future
