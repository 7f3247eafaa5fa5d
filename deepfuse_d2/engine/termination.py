"""A cluster's warning that the time is up: finish the step, write a checkpoint, leave."""

import logging
import signal
import threading

from .agreement import any_process

__all__ = ["WARNINGS", "Notice", "Preempted"]

# SIGTERM is what clusters send; Slurm's users often ask for SIGUSR1.
WARNINGS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(SystemExit):
    """Ends a training that was told to make room; has the exit code to be queued again on."""


class Notice:
    """Whether a signal of :data:`WARNINGS` has come, to this process or to any other one.

    Args:
        exit_code: see :class:`Preempted`.
    """

    def __init__(self, exit_code: int):
        self.exit_code = exit_code
        self.came: str | None = None
        # At such times there is nothing to write any more: leave at once.
        self.leave_at_once = False
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
        return any_process(self.came is not None)

    def leave(self) -> None:
        """Raise :class:`Preempted`."""
        raise Preempted(self.exit_code)

    def _note(self, number: int, frame) -> None:
        self.came = signal.Signals(number).name
        if self.leave_at_once:
            self.leave()
        logging.getLogger(__name__).warning(
            "%s came: finishing this step, then writing a checkpoint and leaving.", self.came
        )
