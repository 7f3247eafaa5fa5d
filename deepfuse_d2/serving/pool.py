"""Processes that predict, and the images that wait for them.

Each process belongs to a thread of the server. A thread whose process is free takes what waits
longest, and with it whatever else waits for the same model, up to a batch: so batches are as large
as the load, and a single image never waits for company. A process that dies is replaced, and its
images are tried again, each alone; one of which three processes died is an error.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from ..errors import PredictionError
from ..inference.processes import how_it_ended, process_context
from .worker import Model, work

__all__ = ["Pool", "Task"]

# of processes one after the other: before any was ready, and with one image
_DEATHS = 3
# seconds to the next one at most, where one after the other dies
_PAUSE = 30.0
# seconds in which a process must have loaded its models
_READY = 600


@dataclass(eq=False)
class Task:
    """An image on its way.

    Args:
        model: name of the one that shall predict it.
        content: bytes of a file.
        form, threshold: see :func:`.answer`.
    """

    model: str
    content: bytes
    form: str
    threshold: float
    future: "Future[tuple[str, bytes]]" = field(default_factory=Future)
    deaths: int = 0


class Pool:
    """A fixed number of processes, each with all models."""

    def __init__(
        self,
        models: Mapping[str, Model],
        workers: int,
        threads: int,
        *,
        batch: int,
        timeout: float,
        watch: Callable[[int], None] = lambda size: None,
    ):
        """
        Args:
            models: by name.
            workers: processes.
            threads: of each.
            batch: images that a process takes at once.
            timeout: seconds after which a process with a batch is given up and replaced.
            watch: called with the size of each batch.
        """
        self._models, self._threads = dict(models), threads
        self._batch, self._timeout, self._watch = batch, timeout, watch
        self._waiting: deque[Task] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._problem: PredictionError | None = None
        self._was_ready = False
        self.ready = 0
        self.restarts = 0
        self._tenders = [
            threading.Thread(target=self._tend, args=(number,), name=f"worker {number}")
            for number in range(workers)
        ]
        for tender in self._tenders:
            tender.start()

    @property
    def waiting(self) -> int:
        """Images that no process has yet."""
        return len(self._waiting)

    def wait_until_ready(self) -> None:
        """Return when one process has loaded its models.

        Raises: PredictionError: they cannot be loaded, or die of it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.ready or self._problem)
        if self._problem:
            raise self._problem

    def submit(self, task: Task) -> None:
        with self._changed:
            self._waiting.append(task)
            self._changed.notify()

    def close(self) -> None:
        """End the processes when all that waits is done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for tender in self._tenders:
            tender.join()

    def _tend(self, number: int) -> None:
        """The life of a thread: it has a process, and another one when that has died."""
        deaths = 0
        while not (self._closing and not self._waiting):
            process, pipe = self._start(number)
            try:
                kind, problem = self._receive(pipe, _READY)
                if kind == "error":
                    raise PredictionError(problem)
                deaths = 0
                with self._changed:
                    self.ready += 1
                    self._was_ready = True
                    self._changed.notify_all()
                try:
                    self._serve(pipe)
                finally:
                    self.ready -= 1
            except PredictionError as error:
                self._give_up(error)
                return
            except (EOFError, OSError, TimeoutError) as error:
                deaths += 1
                self.restarts += 1
                stuck = isinstance(error, TimeoutError)
                how = "was stuck, and ended" if stuck else how_it_ended(process)
                logging.getLogger(__name__).warning("A process %s; it is replaced.", how)
                if deaths >= _DEATHS and not self._was_ready:
                    self._give_up(
                        PredictionError(
                            f"Process after process {how} before it was ready. Give fewer "
                            "--workers."
                        )
                    )
                    return
            finally:
                pipe.close()
                process.kill()
                process.join()
            if deaths > 1:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, min(2.0**deaths, _PAUSE))

    def _start(self, number: int) -> tuple[Any, Connection]:
        context = process_context()
        pipe, theirs = context.Pipe()
        arguments = (self._models, number, self._threads, self._batch, theirs)
        process = context.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return process, pipe

    def _serve(self, pipe: Connection) -> None:
        """Give batches to a process until all is done; raises where it dies or is stuck."""
        while tasks := self._next_batch():
            self._watch(len(tasks))
            try:
                pipe.send([(t.model, t.content, t.form, t.threshold) for t in tasks])
                answers = self._receive(pipe, self._timeout)
            except (EOFError, OSError, TimeoutError):
                self._try_again(tasks)
                raise
            for task, found in zip(tasks, answers, strict=True):
                _resolve(task, found)

    def _next_batch(self) -> list[Task]:
        """Of one model; empty when the pool is closing and nothing waits."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                # a client that is gone, or was told that it took too long
                kept = [task for task in self._waiting if not task.future.cancelled()]
                self._waiting = deque(kept)
                if kept or self._closing:
                    break
            tasks: list[Task] = []
            for task in kept:
                alone = bool(task.deaths)
                if tasks and (alone or task.model != tasks[0].model):
                    continue
                tasks.append(task)
                if alone or len(tasks) == self._batch:
                    break
            for task in tasks:
                self._waiting.remove(task)
            return tasks

    def _try_again(self, tasks: list[Task]) -> None:
        again = []
        for task in tasks:
            task.deaths += 1
            # of a batch any may be to blame; alone, it is this one
            if task.deaths == _DEATHS:
                _resolve(
                    task,
                    PredictionError("Three processes died, or were stuck, predicting this image."),
                )
            else:
                again.append(task)
        with self._changed:
            self._waiting.extendleft(reversed(again))
            self._changed.notify()

    def _receive(self, pipe: Connection, seconds: float) -> Any:
        if not pipe.poll(seconds):
            raise TimeoutError
        return pipe.recv()

    def _give_up(self, problem: PredictionError) -> None:
        with self._changed:
            self._problem = problem
            if self.ready == 0:
                waiting, self._waiting = list(self._waiting), deque()
                for task in waiting:
                    _resolve(task, problem)
            self._changed.notify_all()


def _resolve(task: Task, found: tuple[str, bytes] | Exception) -> None:
    """Hand over an answer, if somebody still waits for it."""
    if not task.future.set_running_or_notify_cancel():
        return
    if isinstance(found, Exception):
        task.future.set_exception(found)
    else:
        task.future.set_result(found)
