"""Trains and evaluates cells, each in a process of its own, and writes down what came of them.

A training that is killed goes on from its last checkpoint the next time, as one that was never
stopped (engine/resume): on a CPU its figures are the same to the last bit.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .plan import Cell, Plan
from .records import (
    course_of,
    log_file,
    log_tail,
    metric_of,
    metrics_of,
    read_record,
    write_record,
)

__all__ = ["CellRunner"]

logger = logging.getLogger(__name__)

_SECONDS_TO_STOP = 20


class CellRunner:
    """Runs the cells of a plan that are not finished yet.

    Args:
        plan: what to train.
        command: of a training; gets ``--config-file BASE --resume OUTPUT_DIR ... KEY VALUE ...``.
        jobs: cells at a time. Each gets an equal part of the CPU cores as OMP_NUM_THREADS, unless
            that is set, and where there are several GPUs, one of them in turn.
    """

    def __init__(self, plan: Plan, command: Sequence[str], *, jobs: int = 1):
        if jobs < 1:
            raise ConfigError(f"--jobs {jobs}: expected 1 or more cells at a time.")
        self._plan = plan
        self._command = list(command)
        self._jobs = jobs
        self._running: dict[int, subprocess.Popen] = {}
        self._lock = threading.Lock()
        self._stopped = False
        self._handle = -1
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(jobs):
            self._slots.put(slot)

    def run(self, after_each: Callable[[], object] = lambda: None) -> bool:
        """Train what is left; returns whether all cells of the plan are finished.

        A cell that fails does not stop the others. A failed one of an earlier run is tried again.

        Args:
            after_each: called after each cell.

        Raises:
            UserError: a cell was begun with another config, another process is at work in the
                plan's folder, or the config of a setting names something that is not there.
                Nothing is trained then.
        """
        cells = self._plan.cells
        records = [read_record(cell) for cell in cells]
        left = [
            cell
            for cell, record in zip(cells, records, strict=True)
            if record.get("state") != "finished"
        ]
        logger.info("%d cells, %d finished before", len(cells), len(cells) - len(left))
        if not left:
            return True
        self._plan.check()
        extras = {id(cell): self._plan.evaluation_overrides(cell) for cell in left}
        with _only_one(self._plan.output) as handle:
            self._handle = handle
            return self._run(left, extras, after_each)

    def _run(
        self, left: list[Cell], extras: dict[int, list[str]], after_each: Callable[[], object]
    ) -> bool:
        done: list[float] = []
        failures = 0
        with ThreadPoolExecutor(self._jobs) as pool:
            futures = {pool.submit(self._train, cell, extras[id(cell)]): cell for cell in left}
            try:
                for future in as_completed(futures):
                    finished, seconds = future.result()
                    done.append(seconds)
                    failures += not finished
                    self._tell(futures[future], finished, done, len(left))
                    after_each()
            finally:
                # nothing runs any more, unless this was interrupted
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
        return failures == 0

    def _train(self, cell: Cell, extra: list[str]) -> tuple[bool, float]:
        """Run one cell; returns whether it finished, and its seconds."""
        cell.folder.mkdir(parents=True, exist_ok=True)
        spent = read_record(cell).get("seconds", 0.0)
        record = {"setting": cell.setting, "seed": cell.seed, "state": "begun", "seconds": spent}
        write_record(cell, record)
        results = cell.folder / "results.json"
        # an older one must not pass for that of this training
        results.unlink(missing_ok=True)

        start = time.monotonic()
        slot = self._slots.get()
        try:
            code = self._call(cell, extra, slot)
        finally:
            self._slots.put(slot)
        record["seconds"] = spent + time.monotonic() - start
        if self._stopped:
            write_record(cell, record)
            return False, record["seconds"]
        reason = f"exit code {code}"
        if code == 0:
            try:
                written = json.loads(results.read_text(encoding="utf-8"))
                record |= {key: written[key] for key in ("parameters", "results")}
                reason = self._missing(cell, written["results"])
            except (OSError, ValueError, KeyError) as error:
                reason = f"no usable {results} ({type(error).__name__}: {error})"
        if reason:
            record |= {"state": "failed", "reason": reason}
        else:
            course = {metric: course_of(cell, metric) for metric in self._plan.metrics}
            record |= {"state": "finished", "course": course}
        write_record(cell, record)
        if not reason:
            # they serve to go on after an interruption only, and fill disks
            for checkpoint in cell.folder.glob("model_[0-9]*.pth"):
                checkpoint.unlink()
        return not reason, record["seconds"]

    def _missing(self, cell: Cell, results: dict[str, Any]) -> str:
        """What keeps the results from being compared; "" if nothing."""
        for name in filter(None, (cell.val, cell.train)):
            for metric in self._plan.metrics:
                value = metric_of(results, name, metric)
                if value is None:
                    there = ", ".join(metrics_of(results, name)) or "none"
                    return f"METRIC {metric} of {name} is not a number; figures there: {there}"
        return ""

    def _call(self, cell: Cell, extra: list[str], slot: int) -> int:
        """Run the training process to its end; returns its exit code."""
        command = [
            *self._command, "--config-file", self._plan.base, "--resume",
            "OUTPUT_DIR", str(cell.folder), *cell.overrides, *extra,
        ]  # fmt: skip
        with open(log_file(cell), "ab") as log:
            log.write(f"\n$ {shlex.join(command)}\n".encode())
            log.flush()
            with self._lock:
                if self._stopped:
                    return -1
                # a session of its own: it is stopped by us, with its loaders, not by the terminal
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=_environment(self._jobs, slot),
                    start_new_session=True,
                    # holds the folder as long as this process lives, even if we do not
                    pass_fds=[self._handle],
                )
                self._running[slot] = process
            logger.info("%s: started, log: %s", cell.name, log_file(cell))
            code = process.wait()
        with self._lock:
            del self._running[slot]
        return code

    def _stop(self) -> None:
        """End the processes that still run, as after Ctrl-C."""
        with self._lock:
            self._stopped = True
            processes = list(self._running.values())
        for kill in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, kill)
            deadline = time.monotonic() + _SECONDS_TO_STOP
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline - time.monotonic(), 0))
            processes = [process for process in processes if process.poll() is None]

    def _tell(self, cell: Cell, finished: bool, done: list[float], total: int) -> None:
        seconds = sum(done) / len(done)
        rounds = -(-(total - len(done)) // self._jobs)
        eta = f"; ETA {_duration(rounds * seconds)}" if rounds else ""
        record = read_record(cell)
        if finished:
            values = (
                f"{metric} {metric_of(record['results'], cell.val, metric):.3f}"
                for metric in self._plan.metrics
            )
            outcome = f"{', '.join(values)} in {_duration(done[-1])}"
        else:
            tail = "\n".join(f"    {line}" for line in log_tail(cell))
            outcome = f"FAILED, {record['reason']}; end of {log_file(cell)}:\n{tail}\n"
        logger.info("%s: %s (%d of %d%s)", cell.name, outcome, len(done), total, eta)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[int]:
    """Hold `folder` against other ablations; yields the handle that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"Another ablation, or a training that outlived one, is at work in {folder}; wait "
                "for it or stop it. --report-only tells how far it is."
            ) from None
        yield file.fileno()


def _environment(jobs: int, slot: int) -> dict[str, str]:
    """Environment of the training in `slot`: its share of cores, and of several GPUs its own."""
    environment = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment.setdefault("OMP_NUM_THREADS", str(max((cores or 1) // jobs, 1)))
    if jobs > 1:
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else range(torch.cuda.device_count())
        if len(devices) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = str(devices[slot % len(devices)])
    return environment


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
