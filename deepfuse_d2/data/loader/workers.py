"""Worker processes of the loader: how they start, and why one died."""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from detectron2.data.build import worker_init_reset_seed
from torch.utils.data import get_worker_info

from ...errors import UserError
from ..mappers.seeded_mapper import SeededSamples

__all__ = ["explain_dead_workers", "messages_alone", "start_worker", "wait_for_the_step"]

_REASONS = {
    signal.SIGKILL: "as a rule the kernel's out-of-memory killer; lower DATALOADER.NUM_WORKERS",
    signal.SIGBUS: "as a rule /dev/shm is full; enlarge it (docker: --shm-size), or lower "
    "DATALOADER.NUM_WORKERS",
    signal.SIGSEGV: "a library crashed while it read or changed an image; look at the images named "
    "here",
}


# Seconds in which a process that the system is ending has ended.
_DYING = 2.0


def start_worker(worker: int) -> None:
    """Initialise a worker process: seeds, and what SIGTERM does to it."""
    worker_init_reset_seed(worker)
    samples = get_worker_info().dataset

    # A scheduler warns all processes of a job; the trainer then still needs its workers for the
    # step it is in. What it sends itself at the end is obeyed.
    def obey_the_trainer(number, frame):
        if samples.closing[0]:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, obey_the_trainer)


def wait_for_the_step() -> None:
    """Let a death be noticed by who waits for a sample, not in the middle of anything else.

    torch raises an error from its handler of SIGCHLD, wherever the main thread is just then: in
    half an optimizer step.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "").startswith("torch.utils.data"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def explain_dead_workers(workers: Sequence[BaseProcess], samples: SeededSamples) -> str | None:
    """Return who died of what, at which images and what to do; None if none of them died."""
    # A connection breaks before the process behind it counts as dead.
    if workers:
        ending = wait([worker.sentinel for worker in workers], timeout=_DYING)
        for worker in workers:
            # its sentinel closes a moment before its exit code is there
            if worker.sentinel in ending:
                worker.join(_DYING)
    dead = {i: worker for i, worker in enumerate(workers) if worker.exitcode}
    if not dead:
        return None
    causes = [f"pid {worker.pid}: {_cause(worker.exitcode)}" for worker in dead.values()]
    at_work = (int(samples.at_work[i]) for i in dead)
    files = [str(samples.records[i].get("file_name", f"record {i}")) for i in at_work if i >= 0]
    return (
        f"{len(dead)} of {len(workers)} data-loader workers died ({'; '.join(causes)}) at work on "
        f"{', '.join(files) or 'no image yet'}.{_memory()}"
    )


@contextlib.contextmanager
def messages_alone() -> Iterator[None]:
    """Let a user's mistake that a worker process met be its message, without the worker's trace."""
    try:
        yield
    except UserError as error:
        text, kind = str(error), f"{type(error).__name__}: "
        if "Original Traceback" not in text or kind not in text:
            raise
        raise type(error)(text[text.rindex(kind) + len(kind) :].strip()) from error


def _cause(exitcode: int) -> str:
    if exitcode > 0:
        return f"left with exit code {exitcode}"
    number = signal.Signals(-exitcode)
    return f"{number.name}, {_REASONS.get(number, 'sent by somebody')}"


def _memory() -> str:
    """Free memory of the machine, and of /dev/shm, where they can be had."""
    parts = []
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = dict(x.split(":", 1) for x in Path("/proc/meminfo").read_text().splitlines())
        parts.append(f"{int(lines['MemAvailable'].split()[0]) / 2**20:.1f} GiB of memory are free")
    with contextlib.suppress(OSError):
        parts.append(f"{shutil.disk_usage('/dev/shm').free / 2**30:.1f} GiB in /dev/shm")
    return f" Now {', '.join(parts)}." if parts else ""
