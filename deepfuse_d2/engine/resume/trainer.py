"""A training that goes on, after an interruption, as if there had been none.

What detectron2's checkpoints lack is added to them: the place in the stream of samples, the states
of all random number generators of all processes, the metrics that writers smooth, and which hooks
had not run yet when the checkpoint was written. What else has a state joins by
``trainer.checkpointer.add_checkpointable(name, object)``, or as a hook with ``state_dict``.
"""

import contextlib
import errno
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm

from ...config.flatten import flatten
from ...data.loader.train_loader import TrainLoader
from ...errors import ConfigError, TrainingError
from ...randomness import get_random_state, set_random_state
from ..anomaly.detection import AnomalyDetector
from ..distributed.preemption import Preempted, PreemptionHandler
from ..hooks.early_stopping import TrainingStopped
from ..watching import watching
from .changes import changes, report
from .checkpoints import LATEST, Checkpoints, Resume
from .metric_history import (
    forget_smoothed,
    history_state,
    last_written,
    restore_history,
    trim_metrics,
)
from .model_state import ForwardState

__all__ = ["ResumableTrainer"]

_PROCESSES = "number of processes"


class ResumableTrainer(DefaultTrainer):
    """A :class:`DefaultTrainer` whose checkpoints hold all that its next iterations depend on.

    On a CPU the iterations after a resume equal those of a training that was never interrupted, bit
    for bit; on a GPU as far as its kernels give the same sums twice.
    """

    def resume_or_load(self, resume: bool = True) -> None:
        """With `resume`, go on from the last checkpoint, if there is one; see DefaultTrainer."""
        super().resume_or_load(resume=resume)
        # of a run that was interrupted before its first checkpoint, nothing is left to go on from
        self._begins_again = resume and self.start_iter == 0
        if resume and self.start_iter >= self.max_iter:
            logging.getLogger(__name__).warning(
                "The training in %s is finished: it has its %d iterations. It is evaluated once "
                "more and not trained; to go on, raise SOLVER.MAX_ITER (%d).",
                self.cfg.OUTPUT_DIR, self.start_iter, self.max_iter,
            )  # fmt: skip

    def run_step(self) -> None:
        preemption = self._preemption
        giving_up = contextlib.nullcontext() if preemption is None else preemption.step(self.iter)
        try:
            with giving_up, self.guard.step(self.iter):
                super().run_step()
            return
        except Preempted:
            pass
        except (Exception, KeyboardInterrupt):
            if comm.get_world_size() == 1:  # several wait for this one in the middle of theirs
                self.keep_last_step()
            raise
        # not in the handler: the exception that leaves would hold the frames of the step by the one
        # before it, and with them workers that a process waits for at its end
        preemption.keep_and_leave()

    @property
    def _preemption(self) -> PreemptionHandler | None:
        hooks = (hook for hook in self._hooks if isinstance(hook, Resume))
        return next((hook.preemption for hook in hooks), None)

    def after_step(self) -> None:
        for number, hook in enumerate(self._hooks):
            self._hooks_run = number + 1
            self._run_hook(hook)

    def after_train(self) -> None:
        """The hooks' clean-up. What fails in it after a failure does not take the place of that."""
        failure = sys.exc_info()[1]
        if failure is None or isinstance(failure, TrainingStopped):
            super().after_train()
            return
        self.storage.iter = self.iter
        for hook in self._hooks:
            try:
                hook.after_train()
            except Exception as error:
                logging.getLogger(__name__).error(
                    "After the failure that ends this training (%s), %s could not clean up: %s: %s",
                    type(failure).__name__, type(hook).__name__, type(error).__name__, error,
                )  # fmt: skip

    def _run_hook(self, hook: HookBase) -> None:
        # An evaluation draws numbers too, more or fewer by the number of its workers. The other
        # watchers do it by themselves.
        is_evaluation = isinstance(hook, EvalHook)
        try:
            with watching(self.checkpointer.model) if is_evaluation else contextlib.nullcontext():
                hook.after_step()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise TrainingError(
                f"Iteration {self.iter}: {type(hook).__name__} could not write ({error}). Make "
                "room and give the same command with --resume; nothing is lost."
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """State of the training after its last complete step; of this process where they differ.

        A checkpoint of several processes holds what :meth:`gather_process_states` collected before.
        """
        states = getattr(self, "_process_states", None) or [self.process_state()]
        return {
            **super().state_dict(),
            # detectron2 would keep one hook of a kind
            "hooks": {name: hook.state_dict() for name, hook in self._named_hooks().items()},
            "resume": {
                "config": self._settings(),
                "parameters": self._parameter_names(),
                "loaders": [loader.state_dict() for loader in self._loaders()],
                "processes": states,
                "metrics": self._metrics(),
                "hooks_to_run": self._hooks_to_run(),
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what a checkpoint holds; what is for the first step waits until then.

        Raises: ConfigError: DEEPFUSE_D2.SOLVER.OPTIMIZER is another one than then.
        """
        logger = logging.getLogger(__name__)
        state = dict(state)
        hooks, resumed = state.pop("hooks", {}), state.pop("resume", None)
        changed = changes(resumed["config"], self._settings()) if resumed else {}
        if "DEEPFUSE_D2.SOLVER.OPTIMIZER" in changed:
            was, now = changed["DEEPFUSE_D2.SOLVER.OPTIMIZER"]
            raise ConfigError(
                f"DEEPFUSE_D2.SOLVER.OPTIMIZER was {was}, is {now}: the state of one is no use to "
                f"the other. Resume with {was}; or leave out --resume and start from the weights "
                "of the last checkpoint with MODEL.WEIGHTS."
            )
        new_solver = any(key.startswith("SOLVER.") for key in changed)
        own_rates = list(self.scheduler.base_lrs)
        was = state["_trainer"]["optimizer"]["param_groups"][0]["lr"]
        if resumed and (new_solver or resumed["parameters"] != self._parameter_names()):
            state["_trainer"] = {
                **state["_trainer"],
                "optimizer": self._own_optimizer_with(
                    state["_trainer"]["optimizer"]["state"], resumed["parameters"]
                ),
            }
        super().load_state_dict(state)
        self._load_hooks(hooks)
        if new_solver:
            self._set_rates(own_rates)
        if resumed is None:
            logger.warning(
                "The checkpoint says nothing of random states and the place in the data; the "
                "training goes on, but not as it would have without the interruption."
            )
        elif changed:
            now = self.optimizer.param_groups[0]["lr"]
            if was != now:
                changed[f"learning rate of iteration {self.iter + 1}"] = (was, now)
            logger.warning(
                "--resume goes on from iteration %d with other settings than before; what is new "
                "counts from here on:\n%s", self.iter + 1, report(changed),
            )  # fmt: skip
        self._resumed = resumed

    def process_state(self) -> dict[str, Any]:
        """What differs between the processes of a training."""
        return {
            "random": get_random_state(),
            "forward": self.forward_state.state_dict(with_buffers=not comm.is_main_process()),
        }

    def gather_process_states(self) -> None:
        """Let the next checkpoint of the main process hold every process; all call it together."""
        preemption = self._preemption
        gather = comm.gather if preemption is None else preemption.gather
        self._process_states = gather(self.process_state())

    def forget_process_states(self) -> None:
        """Let no later checkpoint hold what was gathered for this one."""
        self._process_states = None

    @property
    def guard(self) -> AnomalyDetector:
        if not hasattr(self, "_guard"):
            self._guard = AnomalyDetector(
                self.cfg, self._trainer.model, self.optimizer, self.forward_state
            )
        return self._guard

    @property
    def forward_state(self) -> ForwardState:
        if not hasattr(self, "_forward_state"):
            self._forward_state = ForwardState(self.checkpointer.model)
        return self._forward_state

    def continue_from_checkpoint(self) -> None:
        """Take up what was loaded, right before the first step: nothing may draw a number between.

        Runs the hooks that had not run when the checkpoint was written, an evaluation for example.
        """
        resumed = getattr(self, "_resumed", None)
        self._hooks_run = len(self._hooks)
        if resumed is None:
            if getattr(self, "_begins_again", False):
                self._trim_metrics(-1)
            return
        self._resumed = None
        for loader, state in zip(self._loaders(), resumed["loaders"], strict=False):
            loader.load_state_dict(state)
        self._set_process_state(resumed["processes"])
        last = self.start_iter - 1
        to_run = self._matching(resumed["hooks_to_run"])
        hooks = self._named_hooks()
        has_written = not any(hooks[name].__class__.__name__ == "PeriodicWriter" for name in to_run)
        written = last_written(self._hooks, last if has_written else last - 1)
        restore_history(self.storage, resumed["metrics"], written)
        self._trim_metrics(written)
        self._run_late(to_run, last)
        forget_smoothed(self.storage)

    def _trim_metrics(self, written: int) -> None:
        if comm.is_main_process():
            trim_metrics(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"), written)

    def _run_late(self, names: Sequence[str], iteration: int) -> None:
        """Run ``after_step`` of these hooks as at the end of `iteration`."""
        now = self.iter
        self.iter = self.storage.iter = iteration
        known = self._named_hooks()
        for name in names:
            self._run_hook(known[name])
        self.iter = self.storage.iter = now

    def remember(self) -> None:
        """Keep what an interrupted step would change: what a step that is complete left."""
        self.forward_state.keep()
        self._last = (get_random_state(), [loader.state_dict() for loader in self._loaders()])

    def keep_last_step(self) -> None:
        """After a step that did not end: a checkpoint of the step before, where that can be had.

        All processes call it together.
        """
        done = self.iter - 1
        if self.guard.is_updating or done < self.start_iter:
            return
        checkpoints = next((x for x in self._hooks if isinstance(x, Checkpoints)), None)
        # what the main process could not write, the others do not know of
        if checkpoints is None or (checkpoints.written == done and comm.get_world_size() == 1):
            return
        self.forward_state.put_back()
        random_state, places = self._last
        set_random_state(random_state)
        for loader, place in zip(self._loaders(), places, strict=True):
            loader.load_state_dict(place)
        self.iter = self.storage.iter = done
        try:
            checkpoints.write(LATEST, must=True)
        except Exception as error:  # the one at hand is the one to hear of
            logging.getLogger(__name__).error("%s", error)

    def _loaders(self) -> list[TrainLoader]:
        """The training's own, and those of hooks, such as PreciseBN."""
        loaders = [self._trainer.data_loader]
        loaders += [getattr(hook, "_data_loader", None) for hook in self._hooks]
        return [loader for loader in loaders if isinstance(loader, TrainLoader)]

    def _named_hooks(self) -> dict[str, HookBase]:
        """Hooks by the name of their class, further ones of a class with a number."""
        seen: Counter = Counter()
        named = {}
        for hook in self._hooks:
            name = type(hook).__qualname__
            seen[name] += 1
            named[name if seen[name] == 1 else f"{name}#{seen[name]}"] = hook
        return named

    def _hooks_to_run(self) -> list[str]:
        return list(self._named_hooks())[getattr(self, "_hooks_run", 0) :]

    def _matching(self, names: Sequence[str]) -> list[str]:
        known = self._named_hooks()
        return [name for name in names if name in known]

    def _metrics(self) -> dict[str, Any]:
        return history_state(self.storage, self.iter) if hasattr(self, "storage") else {}

    def _settings(self) -> dict[str, Any]:
        return {**flatten(self.cfg), _PROCESSES: comm.get_world_size()}

    def _parameter_names(self) -> list[str]:
        """Of what the optimizer updates, in its order."""
        names = {parameter: name for name, parameter in self.checkpointer.model.named_parameters()}
        groups = self.optimizer.param_groups
        return [names.get(x, "") for group in groups for x in group["params"]]

    def _own_optimizer_with(self, states: dict[int, Any], names: Sequence[str]) -> dict[str, Any]:
        """The optimizer's groups as the config now makes them, with the states of then by name.

        Args:
            states: by the number of the parameter.
            names: of the parameters then, in their order.
        """
        by_name = {name: states[number] for number, name in enumerate(names) if number in states}
        own = self.optimizer.state_dict()
        own["state"] = {
            number: by_name[name]
            for number, name in enumerate(self._parameter_names())
            if name in by_name
        }
        return own

    def _set_rates(self, base_rates: list[float]) -> None:
        """The learning rates of this iteration by the schedule that the config now makes."""
        self.scheduler.base_lrs = base_rates
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = rate

    def _load_hooks(self, states: dict[str, Any]) -> None:
        hooks = self._named_hooks()
        for name, state in states.items():
            if name in hooks:
                if state:
                    hooks[name].load_state_dict(state)
            elif state:
                logging.getLogger(__name__).warning(
                    "The checkpoint has a state of the hook %s, which this training lacks.", name
                )

    def _set_process_state(self, states: list[dict[str, Any]]) -> None:
        rank = comm.get_rank()
        if rank >= len(states):
            # Of a process more than then, or of a checkpoint that one process alone wrote.
            logging.getLogger(__name__).warning(
                "The checkpoint has the random states of %d processes; this one, number %d, starts "
                "from new ones.", len(states), rank,
            )  # fmt: skip
            torch.manual_seed(torch.initial_seed() + rank + self.start_iter)
            return
        set_random_state(states[rank]["random"])
        self.forward_state.load_state_dict(states[rank]["forward"])
