"""A cluster's warning that the time is up: finish the step, write a checkpoint, leave."""

import logging
import signal
import threading

from detectron2.utils import comm

from .all_reduce import all_reduce_any

__all__ = ["WARNINGS", "Preempted", "PreemptionHandler"]

# SIGTERM is what clusters send; Slurm's users often ask for SIGUSR1.
WARNINGS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(SystemExit):
    """Ends a training that was told to make room; has the exit code to be queued again on."""


class PreemptionHandler:
    """Whether a signal of :data:`WARNINGS` has come, to this process or to any other one.

    Args:
        exit_code: see :class:`Preempted`.
    """

    def __init__(self, exit_code: int):
        self.exit_code = exit_code
        self.came: str | None = None
        self._is_written = False
        self._former: dict = {}

    def listen(self) -> None:
        """Take the signals from now on."""
        if threading.current_thread() is threading.main_thread():
            self._former = {x: signal.signal(x, self._note) for x in WARNINGS}

    def stop_listening(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def for_all(self) -> bool:
        """Whether it came to any process: the same answer in all, which all must ask for."""
        return all_reduce_any(self.came is not None)

    def nothing_to_write(self, is_so: bool) -> None:
        """Say whether all that was done is in a checkpoint, as while an evaluation runs.

        One process alone then leaves at once when a signal comes, or has come. Several do not: the
        others would wait for it.
        """
        self._is_written = is_so and comm.get_world_size() == 1
        if self._is_written and self.came is not None:
            self.leave()

    def leave(self) -> None:
        """Raise :class:`Preempted`."""
        self.stop_listening()
        logging.getLogger(__name__).warning(
            "%s: all that was done is in a checkpoint; leaving with exit code %d. The same command "
            "with --resume goes on.",
            self.came or "Another process was told to stop", self.exit_code,
        )  # fmt: skip
        raise Preempted(self.exit_code)

    def _note(self, number: int, frame) -> None:
        self.came = signal.Signals(number).name
        if self._is_written:
            self.leave()
        logging.getLogger(__name__).warning(
            "%s came: finishing this step, then writing a checkpoint and leaving.", self.came
        )
