"""The command `deepfuse` in a process that is forked from this one, which has imported all of it.

So a start costs a model and not seconds of imports; what is killed and stopped is a process as any
other.
"""

import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path

import cv2
import torch

from deepfuse_d2.batch import local
from deepfuse_d2.cli.main import main

__all__ = ["ForkedCommand"]

_CONTEXT = multiprocessing.get_context("fork")


class ForkedCommand:
    """Runs from the start on; its output lies in a file.

    Args:
        words: of the command line.
        log: file for what it says.
        largest_file: bytes, as on a disk that is full.
    """

    def __init__(self, words: list[str], log: Path, largest_file: int | None = None):
        # no thread of a library lives on in a fork, and what waits for one waits for ever
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        self._log = log
        self._process = _CONTEXT.Process(target=_run, args=(words, log, largest_file))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    def workers(self) -> list[int]:
        """Processes that predict (Linux)."""
        with contextlib.suppress(OSError):
            return list(
                map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())
            )
        return []

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self, seconds: float = 600) -> tuple[int, str]:
        """Wait for its end; return the exit code, and what it said."""
        self._process.join(seconds)
        if self.is_running:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"it did not end within {seconds:g} s:\n{self._log.read_text()}")
        code = self._process.exitcode
        assert code is not None
        return code, self._log.read_text(errors="replace")

    def wait_for_part(self, output: Path) -> bool:
        """Wait until there is one more part of results; False if it ended before."""
        there = len(list(output.glob("part-*.parquet")))
        while len(list(output.glob("part-*.parquet"))) <= there:
            if not self.is_running:
                return False
            time.sleep(0.01)
        return True


def _log_to_one_place() -> None:
    """Let every logger that has handlers write to file 1 alone, not where the parent had them."""
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    handler = logging.StreamHandler(sys.stdout)
    for name in (None, *logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        if logger.handlers:
            logger.handlers[:] = [handler]


def _run(words: list[str], log: Path, largest_file: int | None) -> None:
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    _log_to_one_place()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    local.process_context = lambda: _CONTEXT  # type: ignore[assignment]
    # done above; in a fork, OpenCV waits for the threads that it had
    local.set_up_worker = lambda threads: None
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    code = main(words)
    sys.stdout.flush()
    os._exit(code)
