"""Many images from a list to a folder of results, on this machine or on many."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tqdm import tqdm

from ..checkpoint.model_folder import is_model_folder, open_folder
from ..config.flatten import flatten
from ..config.loading import load_config
from ..errors import ConfigError, WeightsError
from ..files import file_digest
from ..inference.packing import difference, labels_of
from ..inference.processes import choose_workers, devices_of
from .coco import write_coco
from .folder import Folder, written
from .inputs import Image, find_inputs, write_list
from .local import run_local
from .on_ray import run_ray
from .worker import Job

__all__ = ["ENGINES", "Settings", "Summary", "predict_many"]

ENGINES = {"local": run_local, "ray": run_ray}

# images a part: enough for progress and balance with few, and not too many files with millions
_PARTS, _SMALLEST, _LARGEST = 64, 16, 1000


@dataclass(frozen=True)
class Settings:
    """What changes the results, so that a run that goes on has the same.

    Args: see :class:`.Predictor`; and column, of Parquet files that hold images.
    """

    score_threshold: float | None = None
    dtype: str = "float32"
    tile: tuple[int, int] | None = None
    augment: bool = False
    column: str = ""


@dataclass(frozen=True)
class Summary:
    """Of a run that came to its end: images in all, errors among those of this attempt."""

    images: int
    predicted: int
    errors: int


def predict_many(
    config: str,
    weights: str | None,
    sources: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    settings: Settings = Settings(),
    opts: Sequence[str] = (),
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    batch_size: int = 4,
    part_size: int | None = None,
    coco: str | os.PathLike | None = None,
) -> Summary:
    """Predict all images of `sources` into Parquet files in `output`, each exactly once.

    A run that ended before its end goes on when it is called again.

    Args:
        config, weights, opts: as of :class:`.Predictor`; a model folder needs no weights.
        sources: see :func:`.find_inputs`.
        engine: "local" for processes of this machine, "ray" for the actors of a Ray cluster.
        workers: processes; by default as many as cores and memory allow.
        threads: of each process.
        batch_size: images of one shape that go through the network at once.
        part_size: images a file of results; by default 16 to 1000, by their number.
        coco: also write one file as of COCO, here.

    Raises:
        ConfigError: the folder was begun with other settings, another model or other images.
        PredictionError: the disk is full, or processes die before they do anything.
    """
    if engine not in ENGINES:
        raise ConfigError(f'--engine "{engine}" is unknown; choose one of {list(ENGINES)}.')
    options = {k: v for k, v in asdict(settings).items() if k != "column"}
    options["batch_size"] = batch_size
    cfg = load_config(config, [*opts, *(["MODEL.WEIGHTS", weights] if weights else [])])
    devices = devices_of(cfg)
    folder = Folder(Path(output))
    with folder.owned():
        images = find_inputs(sources, settings.column)
        run = _listed(folder, _described(cfg, settings), images, part_size)
        workers, threads = choose_workers(workers, threads, devices)
        job = Job(
            config, weights, tuple(opts), options, str(folder.path.resolve()), run["count"],
            run["part_size"], settings.column, threads, devices,
        )  # fmt: skip
        missing = folder.missing(map(job.size_of, range(job.parts)))
        predicted, errors = _predict(job, missing, ENGINES[engine], workers)
        if coco is not None:
            write_coco(folder.parts(job.parts), Path(coco), run["labels"])
    return Summary(job.count, predicted, errors)


def _predict(job: Job, missing: Sequence[int], engine: Any, workers: int) -> tuple[int, int]:
    """Images and errors of the parts that were missing."""
    predicted = errors = 0
    there = job.count - sum(map(job.size_of, missing))
    every = 0.5 if sys.stderr.isatty() else 10  # of a log, few lines
    with tqdm(total=job.count, initial=there, unit="image", mininterval=every) as progress:

        def report(count: int) -> None:
            if progress.n == there:  # the time that processes take to start is no time of an image
                progress.unpause()
            progress.update(count)

        if missing:
            for done in engine(job, missing, workers, report):
                predicted, errors = predicted + done.images, errors + done.errors
    return predicted, errors


def _described(cfg: CfgNode, settings: Settings) -> dict[str, Any]:
    """What results are of: as JSON holds it, so that it can be compared with what was read."""
    weights = cfg.MODEL.WEIGHTS
    if not weights:
        raise WeightsError("There are no weights: give --model, or --weights with --config-file.")
    if is_model_folder(weights):
        weights = open_folder(weights, verify=False).weights_file
    described = {
        "config": flatten(CfgNode(difference(cfg))),
        "weights": _digest(weights),
        "labels": labels_of(cfg),
        "settings": asdict(settings),
    }
    return json.loads(json.dumps(described))


def _listed(
    folder: Folder, run: dict[str, Any], images: Iterator[Image], part_size: int | None
) -> dict[str, Any]:
    """Write the list and `run`, now with the list; or raise where the folder is of another run."""
    begun = folder.described()
    some = list(islice(images, _PARTS * _LARGEST))
    if part_size is None:
        part_size = begun["part_size"] if begun else len(some) // _PARTS
        part_size = min(max(part_size, 1 if begun else _SMALLEST), _LARGEST)
    with written(folder.list_file) as temporary:
        count, digest = write_list(chain(some, images), temporary, part_size)
        run = {**run, "count": count, "images": digest, "part_size": part_size}
        if begun is not None:
            _check_same(folder, begun, run)
    if begun is None:
        folder.describe(run)
    return run


def _check_same(folder: Folder, begun: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    changes = []
    for name, value in run.items():
        before = begun.get(name)
        if before == value:
            continue
        if name == "weights":
            changes.append("the weights are others")
        elif name == "images":
            changes.append(
                f"the images are others ({begun['count']} then, {run['count']} now; --input "
                f"{folder.list_file} is the list of then)"
            )
        elif isinstance(value, dict) and isinstance(before, dict):
            changes += [
                f"{key} was {before.get(key)!r} and is {value.get(key)!r}"
                for key in sorted({*before, *value})
                if before.get(key) != value.get(key)
            ]
        elif name != "count":
            changes.append(f"{name} was {before!r} and is {value!r}")
    if changes:
        raise ConfigError(
            f"{folder.path} was begun differently: {'; '.join(changes)}. Results of both would be "
            "mixed: give the same as then to go on, or another --output."
        )


def _digest(weights: str) -> str:
    """SHA-256 of a file; what names no file stands for itself."""
    path = weights.split("?")[0]
    return file_digest(path) if os.path.isfile(path) else weights
