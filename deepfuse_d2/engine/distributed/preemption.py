"""A cluster's warning that the time is up: finish the step, write a checkpoint, leave.

A step may take minutes, and clusters kill after some seconds. So one process alone gives up a step
that does not end in time: by an exception, which leaves the training as the step before left it.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterable, Iterator

from detectron2.utils import comm
from torch import Tensor

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

    #: Seconds that a step gets to end after a signal; then it is given up.
    patience = 5.0

    def __init__(self, exit_code: int):
        self.exit_code = exit_code
        self.came: str | None = None
        self._is_written = False
        self._former: dict = {}
        self._is_overdue = False
        self._can_give_up = False
        self._timer: threading.Timer | None = None

    def listen(self) -> None:
        """Take the signals from now on."""
        if threading.current_thread() is threading.main_thread():
            self._former = {x: signal.signal(x, self._note) for x in WARNINGS}

    def stop_listening(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around a step, which may be given up: :class:`Preempted` then leaves it anywhere.

        Several processes finish it: one that leaves would have the others wait for it.
        """
        self._can_give_up = comm.get_world_size() == 1
        try:
            yield
        finally:
            self._can_give_up = False

    def finish(self) -> None:
        """Let a step end that has come to its update: half of one could not be taken back."""
        self._can_give_up = False

    def look_in(self, parameters: Iterable[Tensor]) -> None:
        """Look for a signal whenever the gradient of one of these is ready.

        Python hears of no signal while a backward pass, one call for it, is under way.
        """
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _: self._give_up_overdue())

    def _give_up_overdue(self) -> None:
        if self._is_overdue and self._can_give_up:
            self.finish()
            raise Preempted(self.exit_code)

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
        if self.came is None:
            self.came = signal.Signals(number).name
            if self._is_written:
                self.leave()
            logging.getLogger(__name__).warning(
                "%s came: finishing this step%s, then writing a checkpoint and leaving.",
                self.came,
                f", for at most {self.patience:g} s" if comm.get_world_size() == 1 else "",
            )
            self._timer = threading.Timer(self.patience, self._wake, args=[number])
            self._timer.daemon = True
            self._timer.start()
        else:
            self._give_up_overdue()

    def _wake(self, number: int) -> None:
        """The time is over: have the handler run again, in the main thread."""
        self._is_overdue = True
        if self._former:
            signal.pthread_kill(threading.main_thread().ident, number)
