"""A cluster's warning that the time is up: finish the step, write a checkpoint, leave.

A step may take minutes, and clusters kill after some seconds. So one that does not end in time is
given up: by an exception, which leaves the training as the step before left it.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from .all_reduce import all_reduce_any
from .step_vote import StepVote

__all__ = ["WARNINGS", "Preempted", "PreemptionHandler", "can_give_up_steps"]

# SIGTERM is what clusters send; Slurm's users often ask for SIGUSR1.
WARNINGS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(SystemExit):
    """Ends a training that was told to make room; has the exit code to be queued again on."""


def can_give_up_steps() -> bool:
    """Whether a step need not be finished: of one process, or of several on CPUs.

    On GPUs a process that has left holds up the others' streams, and all that comes behind in them,
    such as the reading of weights.
    """
    return comm.get_world_size() == 1 or dist.get_backend() == "gloo"


class PreemptionHandler:
    """Whether a signal of :data:`WARNINGS` has come, to this process or to any other one.

    Args:
        exit_code: see :class:`Preempted`.
        keep: writes, after a step was given up, what the one before it left; in all processes.
    """

    #: Seconds that a step gets to end after a signal; then it is given up.
    patience = 5.0
    #: Seconds after which a process that should give up is taken to wait for one that has.
    stuck_after = 2.0

    def __init__(self, exit_code: int, keep: Callable[[], None]):
        self.exit_code = exit_code
        self._keep = keep
        self._vote: StepVote | None = None
        self._leaving = threading.Lock()
        self._main_thread_leaves = threading.Event()
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
            if comm.get_world_size() > 1 and can_give_up_steps():
                self._vote = StepVote(self._give_up_together)

    def stop_listening(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._vote is not None:
            self._vote.end()
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    @contextlib.contextmanager
    def step(self, iteration: int) -> Iterator[None]:
        """Around a step, which may be given up: :class:`Preempted` then leaves it anywhere.

        Several processes do it when all of them can.
        """
        if self._vote is not None:
            self._vote.begin(iteration)
        self._can_give_up = self._vote is not None or comm.get_world_size() == 1
        try:
            yield
            self.finish()  # of a step that is skipped
        finally:
            self._can_give_up = False
            if self._vote is not None:
                self._vote.close()

    def finish(self) -> None:
        """Let a step end that has come to its update: half of one could not be taken back."""
        if self._vote is not None and not self._vote.close():
            self._give_up()
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
            self._give_up()

    def _give_up(self) -> None:
        self._can_give_up = False
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

    def gather(self, state: Any) -> list[Any]:
        """`state` of each process, in the main one; [] in the others. All call it together."""
        if self._vote is not None and self._vote.is_agreed:
            return self._vote.gather(state)
        return comm.gather(state)

    def keep_and_leave(self) -> None:
        """After a step was given up: write what was before it, and raise :class:`Preempted`."""
        self._main_thread_leaves.set()
        self._leaving.acquire()  # who comes too late waits here for the end
        self._keep_together()
        self.leave()

    def _keep_together(self) -> None:
        self._keep()
        if self._vote is not None:
            self._vote.wait_for_main()

    def leave(self) -> None:
        """Raise :class:`Preempted`."""
        self.stop_listening()
        self._tell()
        raise Preempted(self.exit_code)

    def _tell(self) -> None:
        logging.getLogger(__name__).warning(
            "%s: all that was done is in a checkpoint; leaving with exit code %d. The same command "
            "with --resume goes on.",
            self.came or "Another process was told to stop", self.exit_code,
        )  # fmt: skip

    def _note(self, number: int, frame) -> None:
        if self.came is None and not self._is_overdue:
            self.came = signal.Signals(number).name
            if self._is_written:
                self.leave()
            logging.getLogger(__name__).warning(
                "%s came: finishing this step%s, then writing a checkpoint and leaving.",
                self.came,
                f", for at most {self.patience:g} s" if can_give_up_steps() else "",
            )
            self._timer = threading.Timer(self.patience, self._end_patience)
            self._timer.daemon = True
            self._timer.start()
        else:
            self._give_up_overdue()

    def _end_patience(self) -> None:
        if self._vote is None:
            self._interrupt()
        else:
            self._vote.propose()

    def _interrupt(self) -> None:
        """Have the handler run, again, in the main thread."""
        self._is_overdue = True
        if self._former:
            signal.pthread_kill(threading.main_thread().ident, WARNINGS[0])

    def _give_up_together(self) -> None:
        """Interrupt the step; or do its part, where it waits for a process that has left.

        No signal reaches it there, and nothing changes in it: the state is that of the step before.
        """
        self._interrupt()
        if self._main_thread_leaves.wait(self.stuck_after):
            return
        if self._leaving.acquire(blocking=False):
            try:
                self._keep_together()
                self._tell()
            except Exception:
                logging.getLogger(__name__).exception("The last step may not be in a checkpoint.")
            finally:
                logging.shutdown()
                os._exit(self.exit_code)
