"""Where the numbers of a training go: a table of writers, chosen by MONITOR.WRITERS."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from ..config.flatten import flatten
from ..errors import ConfigError

__all__ = ["WRITERS", "ConsoleWriter", "MLflowWriter", "WandbWriter", "build_writers"]

# Values are medians over as many iterations, where they are noisy; detectron2's number.
_WINDOW = 20


class ConsoleWriter(CommonMetricPrinter):
    """detectron2's log lines, and below them a progress bar where the output is a terminal.

    Args:
        max_iter: of the training.
        is_terminal: whether to show the bar; by default, whether standard output is a terminal.
    """

    def __init__(self, max_iter: int, is_terminal: bool | None = None):
        super().__init__(max_iter)
        self._total = max_iter
        self._written = -1
        self._shows_bar = sys.stdout.isatty() if is_terminal is None else is_terminal
        self._bar = None
        self._handlers: list[tuple[logging.StreamHandler, Any]] = []

    def write(self) -> None:
        iteration = get_event_storage().iter
        if iteration == self._written:
            # again at the end of a training that failed: nothing is new, and no time has passed,
            # by which detectron2's estimate of the rest would divide
            return
        self._written = iteration
        super().write()
        if self._shows_bar:
            self._update(get_event_storage())

    def close(self) -> None:
        if self._bar is None:
            return
        self._bar.stop()
        self._bar = None
        for handler, stream in self._handlers:
            handler.setStream(stream)
        self._handlers = []

    def _update(self, storage: EventStorage) -> None:
        if self._bar is None:
            self._start()
        latest = storage.latest()
        loss = latest["total_loss"][0] if "total_loss" in latest else float("nan")
        speed = latest["images_per_second"][0] if "images_per_second" in latest else float("nan")
        done = min(storage.iter + 1, self._total)
        self._bar.update(self._task, completed=done, loss=loss, speed=speed, refresh=True)

    def _start(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("Training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[speed]:.1f} images/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task(
            "", total=self._total, loss=float("nan"), speed=float("nan")
        )
        before = sys.stdout
        self._bar.start()
        # Log lines go above the bar, not through it: rich has put its own stream into sys.stdout,
        # and the handlers still hold the one before.
        for name in (None, "detectron2", "deepfuse_d2", "fvcore"):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                    self._handlers.append((handler, before))
                    handler.setStream(sys.stdout)


class _RunWriter(EventWriter):
    """What the writers to a server of runs share: new values since the last time, and its run.

    The run's identity is kept in OUTPUT_DIR, so that a resumed training goes on in the same run.

    Args:
        cfg: of the training; its keys become the parameters of the run.
        file: name of the file in OUTPUT_DIR that holds the run's identity.
    """

    def __init__(self, cfg: CfgNode, file: str):
        self.cfg = cfg
        self.name = cfg.MONITOR.RUN_NAME or Path(cfg.OUTPUT_DIR).name
        self._file = Path(cfg.OUTPUT_DIR, file)
        self._last = -1

    def kept_id(self) -> str | None:
        """Identity of the run that this training started in, if it is resumed."""
        return self._file.read_text().strip() if self._file.exists() else None

    def keep_id(self, identity: str) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(identity)

    def write(self) -> None:
        by_iteration: dict[int, dict[str, float]] = {}
        values = get_event_storage().latest_with_smoothing_hint(_WINDOW)
        for name, (value, iteration) in values.items():
            if iteration > self._last:
                by_iteration.setdefault(iteration, {})[name] = value
        for iteration in sorted(by_iteration):
            self.send(by_iteration[iteration], iteration)
        self._last = max([self._last, *by_iteration])

    def send(self, values: dict[str, float], iteration: int) -> None:
        raise NotImplementedError


class WandbWriter(_RunWriter):
    """Values and images to Weights & Biases; the extra "wandb". WANDB_MODE=offline needs no server.

    MONITOR.PROJECT and RUN_NAME say where.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg, "wandb_run")
        self._wandb = _import("wandb")
        self._run = self._wandb.init(
            project=cfg.MONITOR.PROJECT,
            name=self.name,
            id=self.kept_id(),
            resume="allow",
            dir=cfg.OUTPUT_DIR,
            config=_plain(cfg),
        )
        self.keep_id(self._run.id)

    def write(self) -> None:
        super().write()
        # TensorBoard's writer, behind this one, takes the images away
        for name, image, iteration in get_event_storage()._vis_data:
            picture = self._wandb.Image(np.asarray(image).transpose(1, 2, 0))
            self._run.log({name: picture}, step=iteration)

    def send(self, values: dict[str, float], iteration: int) -> None:
        self._run.log(values, step=iteration)

    def close(self) -> None:
        self._run.finish()


class MLflowWriter(_RunWriter):
    """Values to MLflow; the extra "mlflow". MLFLOW_TRACKING_URI says where, by default ./mlruns."""

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg, "mlflow_run")
        self._mlflow = _import("mlflow")
        self._mlflow.set_experiment(cfg.MONITOR.PROJECT)
        kept = self.kept_id()
        run = self._mlflow.start_run(run_id=kept, run_name=self.name)
        if kept is None:
            self.keep_id(run.info.run_id)
            # no single request takes more than a hundred parameters
            # 500 characters are MLflow's oldest limit
            parameters = [(key, str(value)[:500]) for key, value in flatten(cfg).items()]
            for start in range(0, len(parameters), 100):
                self._mlflow.log_params(dict(parameters[start : start + 100]))

    def send(self, values: dict[str, float], iteration: int) -> None:
        self._mlflow.log_metrics({_mlflow_name(k): v for k, v in values.items()}, step=iteration)

    def close(self) -> None:
        self._mlflow.end_run()


class _DropImages(EventWriter):
    """Takes away the images that nobody wrote: the storage keeps them until TensorBoard does."""

    def write(self) -> None:
        storage = get_event_storage()
        storage.clear_images()
        storage.clear_histograms()


# name in MONITOR.WRITERS -> builder(cfg). TensorBoard's stands last, because it takes images away.
WRITERS: dict[str, Callable[[CfgNode], EventWriter]] = {
    "console": lambda cfg: ConsoleWriter(cfg.SOLVER.MAX_ITER),
    "json": lambda cfg: JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json"), _WINDOW),
    "wandb": WandbWriter,
    "mlflow": MLflowWriter,
    "tensorboard": lambda cfg: TensorboardXWriter(cfg.OUTPUT_DIR, _WINDOW),
}


def build_writers(cfg: CfgNode) -> list[EventWriter]:
    """The writers of MONITOR.WRITERS, in the order of the table.

    Raises: ConfigError: a name is unknown, or its package is not installed.
    """
    wanted = list(cfg.MONITOR.WRITERS)
    unknown = [name for name in wanted if name not in WRITERS]
    if unknown:
        raise ConfigError(
            f"MONITOR.WRITERS has {', '.join(map(repr, unknown))}, which is unknown; choose any of "
            f"{list(WRITERS)}."
        )
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    writers = [build(cfg) for name, build in WRITERS.items() if name in wanted]
    return writers if "tensorboard" in wanted else [*writers, _DropImages()]


def _import(package: str):
    try:
        return __import__(package)
    except ImportError as error:
        raise ConfigError(
            f'MONITOR.WRITERS has "{package}", but the package {package} is not installed: '
            f'pip install "deepfuse-d2[{package}]", or leave the writer out.'
        ) from error


def _plain(cfg: CfgNode) -> dict:
    return {k: _plain(v) if isinstance(v, CfgNode) else v for k, v in cfg.items()}


def _mlflow_name(name: str) -> str:
    """MLflow takes letters, digits, "_-. /" in a name."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)
