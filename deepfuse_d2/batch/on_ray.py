"""The machines of a Ray cluster, or this one: Ray Data hands parts to actors that each predict.

Where an actor or its machine dies, Ray starts another one and gives it the part again, which is
harmless: a part is there or not (folder.py), and what it died of is written down (journal.py). All
machines must see the images and the results under the same paths.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import ConfigError, PredictionError, UserError
from ..inference.processes import set_up_worker
from .worker import Done, Job, PartPredictor

__all__ = ["run_ray"]


def run_ray(
    job: Job, numbers: Sequence[int], workers: int, report: Callable[[int], None]
) -> Iterator[Done]:
    """Yield what was done of each of the parts `numbers`, in the order they are finished.

    Args:
        workers: actors; RAY_ADDRESS says of which cluster, by default one of this machine alone.
        report: called with counts of images that were done.

    Raises:
        PredictionError: the disk is full, or actors die before they do anything.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            '--engine ray needs Ray Data: pip install "deepfuse-d2[ray]"; --engine local does '
            "without."
        ) from error
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # other machines may have what this one has not
        gpus = ray.cluster_resources().get("GPU", 0) and "MODEL.DEVICE" not in job.opts
        parts = ray.data.from_items(
            [{"part": number} for number in numbers], override_num_blocks=len(numbers)
        )
        done = parts.map_batches(
            _Actor,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(numbers))),
            num_cpus=job.threads,
            num_gpus=1 if gpus else None,
            # a part again after its actor died; more often than a journal needs to find the image
            max_restarts=-1,
            max_task_retries=8,
        )
        for row in done.iter_rows():
            if row["problem"]:
                raise PredictionError(row["problem"])
            report(row["images"])
            yield Done(row["part"], row["images"], row["errors"])
    except ray.exceptions.RayError as error:
        raise PredictionError(
            f"Ray could not go on: {_last_line(error)} The same command goes on from here."
        ) from error
    finally:
        if started:
            ray.shutdown()


class _Actor:
    """A Predictor in a process of Ray's."""

    def __init__(self, job: Job):
        set_up_worker(job.threads)
        self._predictor = PartPredictor(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list]:
        rows: list[tuple] = []
        try:
            rows += [(*done, "") for done in self._predictor.run(map(int, batch["part"]))]
        except UserError as error:
            # as a value: Ray wraps what an actor raises, and repeats the part
            rows.append((-1, 0, 0, str(error)))
        columns = ("part", "images", "errors", "problem")
        return {name: [row[k] for row in rows] for k, name in enumerate(columns)}


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
