"""The cores of this machine: a process each, which die and are replaced without any loss.

Each has a pipe of its own: one that is killed while it holds the lock of a shared queue would stop
all others.
"""

import contextlib
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ..errors import PredictionError, UserError
from ..inference.processes import die_with_the_parent, how_it_ended, process_context, set_up_worker
from .journal import forget_orderly_ends
from .worker import Done, Job, PartPredictor

__all__ = ["run_local"]

# processes that may die one after the other before their first image
_DEATHS = 3
# seconds between two reports of a process
_REPORTS = 0.2


def run_local(
    job: Job, numbers: Sequence[int], workers: int, report: Callable[[int], None]
) -> Iterator[Done]:
    """Yield what was done of each of the parts `numbers`, in the order they are finished.

    Args:
        workers: processes.
        report: called with counts of images that were done.

    Raises:
        PredictionError: the disk is full, or processes die before they do anything.
    """
    waiting = deque(numbers)
    left = len(waiting)
    processes = [_Process(job, number) for number in range(min(workers, left))]
    deaths = 0
    try:
        while left:
            handles = {handle: x for x in processes for handle in x.handles()}
            for handle in wait(list(handles)):
                process = handles[handle]
                if process not in processes:  # its death was seen by its other handle
                    continue
                message = process.receive()
                if message is None:
                    processes.remove(process)
                    if process.parts or not process.dismissed:
                        deaths = 0 if process.has_begun else deaths + 1
                        _tell_of_death(process, deaths)
                        waiting.extendleft(reversed(process.parts))
                        report(-process.unfinished)
                        processes.append(_Process(job, process.number))
                    process.close()
                    continue
                kind, value = message
                if kind == "next":
                    process.send(waiting.popleft() if waiting else None)
                elif kind == "images":
                    process.unfinished += value
                    process.has_begun = True
                    report(value)
                elif kind == "done":
                    process.parts.remove(value.part)
                    process.unfinished -= value.images
                    left -= 1
                    yield value
                elif kind == "error":
                    raise value
    finally:
        for process in processes:
            process.close()
        if left:
            forget_orderly_ends(Path(job.output))


@dataclass(eq=False)
class _Process:
    """One that predicts, as its parent sees it.

    Attributes:
        parts: that it was given and has not finished.
        unfinished: images of these parts that it has predicted.
        has_begun: whether it has predicted any image.
        dismissed: whether it was told that nothing is left.
    """

    job: Job
    number: int
    parts: list[int] = field(default_factory=list)
    unfinished: int = 0
    has_begun: bool = False
    dismissed: bool = False

    def __post_init__(self):
        context = process_context()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(self.job, self.number, theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    def handles(self) -> list[Any]:
        return [self._pipe, self._process.sentinel]

    def receive(self) -> tuple[str, Any] | None:
        """What it says; None when it is dead and has said all."""
        try:
            if self._pipe.poll() or self._process.is_alive():
                return self._pipe.recv()
        except (EOFError, OSError):
            pass
        return None

    def send(self, part: int | None) -> None:
        if part is None:
            self.dismissed = True
        else:
            self.parts.append(part)
        with contextlib.suppress(OSError):  # it is dead, which its handle tells next
            self._pipe.send(part)

    def end(self) -> str:
        """How it ended, in words."""
        return how_it_ended(self._process)

    def close(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join(10)
        self._process.kill()
        self._process.join()


def _tell_of_death(process: _Process, deaths: int) -> None:
    how = process.end()
    if deaths >= _DEATHS:
        raise PredictionError(
            f"Process after process {how} before its first image. Give fewer --workers, or a "
            "smaller --batch; the same command then goes on."
        )
    logging.getLogger(__name__).warning("A process %s; another one takes over its images.", how)


def _work(job: Job, number: int, pipe: Connection) -> None:
    """The life of such a process."""
    die_with_the_parent()
    # the parent decides what Ctrl-C means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_up_worker(job.threads)
    reports = _Reports(pipe)
    try:
        device = job.devices[number % len(job.devices)]
        predictor = PartPredictor(replace(job, opts=(*job.opts, "MODEL.DEVICE", device)))
        for done in predictor.run(_asked(pipe), reports.add):
            reports.flush()
            pipe.send(("done", done))
    except UserError as error:
        pipe.send(("error", error))


def _asked(pipe: Connection) -> Iterator[int]:
    while True:
        pipe.send(("next", None))
        part = pipe.recv()
        if part is None:
            return
        yield part


class _Reports:
    """Counts for the parent, some times a second."""

    def __init__(self, pipe: Connection):
        self._pipe, self._count, self._last = pipe, 0, 0.0

    def add(self, count: int) -> None:
        self._count += count
        if time.monotonic() - self._last > _REPORTS:
            self.flush()
            self._last = time.monotonic()

    def flush(self) -> None:
        if self._count:
            self._pipe.send(("images", self._count))
            self._count = 0
