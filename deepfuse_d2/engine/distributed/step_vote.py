"""Whether the processes of a training give up the step that they are in: all of them, or none.

A commit in two phases over the store of the group: one process proposes a step, each says whether
it has begun that one's update, and all act on the same answers. A collective would not do: the
processes are in the middle of those of the step.
"""

import contextlib
import pickle
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm

__all__ = ["StepVote"]

# Seconds between two looks for a proposal.
_PERIOD = 0.5
# What is done at once, unless a process has died; a checkpoint may take longer.
_AT_ONCE, _WRITTEN = timedelta(seconds=60), timedelta(minutes=10)


class StepVote:
    """Votes for this process in a thread of its own, which the step does not hold up.

    Args:
        on_agreed: is called in that thread when all give up.
    """

    def __init__(self, on_agreed: Callable[[], None]):
        self._on_agreed = on_agreed
        self._store = dist.PrefixStore("preemption", dist.distributed_c10d._get_default_store())
        self._rank, self._ranks = comm.get_rank(), range(comm.get_world_size())
        self._changed = threading.Condition()
        self._begun = self._closed = -1  # the last step, and the last that goes on to its update
        self._is_voting = False
        self.is_agreed = False
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def begin(self, step: int) -> None:
        with self._changed:
            self._begun = step
            self._changed.notify_all()

    def close(self) -> bool:
        """Have the step given up no more; returns False if it is, where a vote is under way."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_voting)
            if not self.is_agreed:
                self._closed = self._begun
            return not self.is_agreed

    def propose(self) -> None:
        """Propose the step of now; between two of them there is nothing to give up."""
        with self._changed:
            step = self._begun if self._begun > self._closed else None
        if step is not None:
            self._store.set("step", str(step))

    def end(self) -> None:
        """Vote no more."""
        with self._changed:
            self._is_over.set()
            self._changed.notify_all()
        # a thread that outlives the interpreter aborts the process
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def gather(self, state: Any) -> list[Any]:
        """`state` of each process, in the main one; [] in the others."""
        self._store.set(f"state {self._rank}", pickle.dumps(state))
        if self._rank:
            return []
        keys = self._wait_for("state", _AT_ONCE)
        return [pickle.loads(self._store.get(key)) for key in keys]

    def wait_for_main(self) -> None:
        """Return when the main process has come here too; that one is the last to return."""
        if self._rank:
            self._store.wait(["main"], _WRITTEN)
        else:
            self._store.set("main", "")
        self._store.set(f"leaving {self._rank}", "")
        if not self._rank:  # with it, the store may end
            self._wait_for("leaving", _AT_ONCE)

    def _wait_for(self, what: str, timeout: timedelta) -> list[str]:
        keys = [f"{what} {rank}" for rank in self._ranks]
        self._store.wait(keys, timeout)
        return keys

    def _watch(self) -> None:
        # an error is that the store has ended, or a process: the training does, too
        with contextlib.suppress(RuntimeError):
            while not self._is_over.wait(_PERIOD):
                if self._store.check(["step"]):
                    self._vote(int(self._store.get("step")))
                    break
            else:  # nobody waits for this one
                self._store.set(f"vote {self._rank}", "no")
        if self.is_agreed:
            self._on_agreed()

    def _vote(self, step: int) -> None:
        with self._changed:
            # who has not begun it is about to: all have left the question before it
            self._changed.wait_for(lambda: self._begun >= step or self._is_over.is_set())
            self._is_voting = self._closed < step <= self._begun
        agreed = False
        try:
            self._store.set(f"vote {self._rank}", "yes" if self._is_voting else "no")
            keys = self._wait_for("vote", _AT_ONCE)
            agreed = all(self._store.get(key) == b"yes" for key in keys)
        finally:
            with self._changed:
                self.is_agreed, self._is_voting = agreed, False
                self._changed.notify_all()
