"""A process of the server: models, and answers to batches of images."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from multiprocessing.connection import Connection
from typing import Any

from ..errors import UserError
from ..inference import Predictor
from ..inference.processes import die_with_the_parent, set_up_worker
from .answers import answer

__all__ = ["Model", "work"]


@dataclass(frozen=True)
class Model:
    """What a process needs to load a model; see :class:`.Predictor`.

    Args:
        devices: of which each process takes one in turn.
        labels: names of classes.
    """

    config: str
    weights: str | None
    opts: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)
    labels: Mapping[str, Any] = field(default_factory=dict)


def work(
    models: Mapping[str, Model], number: int, threads: int, batch: int, pipe: Connection
) -> None:
    """Answer batches of (model, content, form, threshold) from `pipe` until it is closed.

    Sends ("ready", "") first, or ("error", message); then a list of answers for each batch, of
    which each is (media type, content) or an error.
    """
    die_with_the_parent()
    # the server decides what they mean, and lets this process finish what it has
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_worker(threads)
    try:
        predictors = {name: _load(model, number, batch) for name, model in models.items()}
    except UserError as error:
        pipe.send(("error", str(error)))
        return
    pipe.send(("ready", ""))
    while True:
        try:
            tasks = pipe.recv()
        except EOFError:  # the server is done
            return
        answers: list[Any] = []
        for name, some in groupby(tasks, key=lambda task: task[0]):
            group = list(some)
            found = predictors[name]([content for _, content, _, _ in group])
            answers += [
                _answered(one, form, threshold, models[name])
                for one, (_, _, form, threshold) in zip(found, group, strict=True)
            ]
        pipe.send(answers)


def _load(model: Model, number: int, batch: int) -> Predictor:
    device = model.devices[number % len(model.devices)]
    return Predictor(
        model.config, model.weights, opts=[*model.opts, "MODEL.DEVICE", device], batch_size=batch,
        output="record", errors="return", **model.options,
    )  # fmt: skip


def _answered(found: Any, form: str, threshold: float, model: Model) -> Any:
    if isinstance(found, Exception):
        return found if isinstance(found, UserError) else RuntimeError(str(found))
    try:
        return answer(found, form, threshold, model.labels)
    except UserError as error:
        return error
