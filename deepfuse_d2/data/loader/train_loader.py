"""The loader of training batches: continues where it was, whatever happened in between."""

import atexit
import logging
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    build_detection_train_loader,
)
from detectron2.data.samplers import RandomSubsetTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Sampler

from ...errors import ConfigError, DatasetError, TrainingError
from ..mappers.seeded_mapper import DAMAGED, SeededSamples
from .batches import Batches, SampleIndex, SamplerState, aspect_groups
from .records import load_train_records
from .workers import explain_dead_workers, messages_alone, start_worker, wait_for_the_step

__all__ = ["TrainLoader", "build_train_loader"]


class TrainLoader:
    """Endless batches of samples, each a list of what the mapper returned.

    The same seed gives the same batches in the same order, whatever the number of workers and,
    taken together, of processes. ``state_dict`` says where the training stands, that is after the
    batch that was handed out last, however many more the workers have prepared.

    Args:
        records: data set dicts.
        mapper: see detectron2's ``DatasetMapper``.
        batches: what comes into which batch.
        seed: of order and augmentation, the same in all processes; 0 or more.
        num_workers: worker processes; 0 loads in this one.
        max_damaged: files that may turn out unreadable before the training stops.
        max_worker_deaths: as often is the work of workers that died taken up by new ones.
        options: further arguments of torch's DataLoader, such as ``pin_memory``.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
        batches: Batches,
        *,
        seed: int,
        num_workers: int = 0,
        max_damaged: int = 10,
        max_worker_deaths: int = 3,
        **options: Any,
    ):
        if isinstance(records, list):
            records = DatasetFromList(records, copy=False)
        self.records = records
        self.mapper = mapper
        self.batches = batches
        self.seed = seed
        self.num_workers = num_workers
        self.max_damaged = max_damaged
        self.max_worker_deaths = max_worker_deaths
        self.options = options
        # file -> what is wrong with it
        self.damaged: dict[str, str] = {}
        self._state = SamplerState()
        self._logger = logging.getLogger(__name__)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        deaths = 0
        while True:
            samples = SeededSamples(self.records, self.mapper, self.seed, self.num_workers)
            states: deque[SamplerState] = deque()
            prepared = iter(self._loader(samples, states))
            wait_for_the_step()
            atexit.register(samples.close)
            try:
                while True:
                    with messages_alone():
                        batch = next(prepared, None)
                    if batch is None:
                        break
                    self._note_damage(batch)
                    self._state = states.popleft()
                    yield batch
            except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
                why = explain_dead_workers(getattr(prepared, "_workers", ()), samples)
                if why is None:
                    raise
                deaths += 1
                if deaths > self.max_worker_deaths:
                    raise TrainingError(
                        f"{why} DEEPFUSE_D2.DATALOADER.MAX_WORKER_DEATHS allows "
                        f"{self.max_worker_deaths} in a training. DATALOADER.NUM_WORKERS 0 loads "
                        "without worker processes."
                    ) from error
                self._logger.error("%s New ones take up their work; no sample is lost.", why)
            finally:
                samples.close()
                atexit.unregister(samples.close)

    def state_dict(self) -> dict[str, Any]:
        return {
            **self._state.state_dict(),
            "seed": self.seed,
            "records": len(self.records),
            "damaged": dict(self.damaged),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; takes effect when the next iterator is made."""
        self._state = SamplerState.from_state_dict(state)
        self.seed = state["seed"]
        self.damaged = dict(state["damaged"])
        if state["records"] != len(self.records):
            self._logger.warning(
                "The data set had %d records, it has %d: the order of the images is another one.",
                state["records"], len(self.records),
            )  # fmt: skip
            self._state.waiting = []

    def _loader(self, samples: SeededSamples, states: deque) -> DataLoader:
        return DataLoader(
            samples,
            batch_sampler=_SampleIndices(self.batches, self.seed, self._state, states),
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            worker_init_fn=start_worker,
            # Its own: the loader draws a number, and the state of the model's shall not change.
            generator=torch.Generator().manual_seed(self.seed),
            **self.options,
        )

    def _note_damage(self, batch: list[dict[str, Any]]) -> None:
        found = [one for sample in batch for one in sample.pop(DAMAGED, ())]
        for one in found:
            if one["file"] in self.damaged:
                continue
            self.damaged[one["file"]] = one["error"]
            count = len(self.damaged)
            if count > self.max_damaged:
                listed = "\n".join(f"  {file}: {error}" for file, error in self.damaged.items())
                raise DatasetError(
                    f"{count} files of the data set cannot be read; "
                    "DEEPFUSE_D2.DATALOADER.MAX_DAMAGED allows "
                    f"{self.max_damaged}:\n{listed}\nReplace them, or raise the limit. "
                    "deepfuse check-data lists all of a data set."
                )
            self._logger.error(
                "%s cannot be read and is left out, another image takes its place (%d of %d that "
                "DEEPFUSE_D2.DATALOADER.MAX_DAMAGED allows): %s",
                one["file"], count, self.max_damaged, one["error"],
            )  # fmt: skip


class _SampleIndices(Sampler):
    """Batches from a state on; writes down the state after each one that it hands out."""

    def __init__(self, batches: Batches, seed: int, state: SamplerState, states: deque):
        self.batches, self.seed, self.state, self.states = batches, seed, state, states

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        for batch, state in self.batches.after(self.seed, self.state):
            self.states.append(state)
            yield batch


def build_train_loader(
    cfg: CfgNode,
    *,
    mapper: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
    records: list[dict[str, Any]] | None = None,
    **options: Any,
) -> TrainLoader:
    """The loader that DATALOADER, DATASETS and SOLVER.IMS_PER_BATCH describe.

    Args:
        mapper: by default detectron2's.
        records: by default those of DATASETS.TRAIN.
        options: further arguments of torch's DataLoader.
    """
    world_size, batch_size = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH
    if batch_size <= 0 or batch_size % world_size:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {batch_size}; it counts the images of all {world_size} "
            f"processes together, so it must be a multiple of {world_size}."
        )
    if records is None:
        records = load_train_records(cfg)
    seed = comm.shared_random_seed()
    # detectron2's choice of mapper and sampler by config
    chosen = build_detection_train_loader.from_config(cfg, mapper, dataset=records)
    batches = Batches(
        _sampler_by_seed(cfg, chosen["sampler"], len(records)),
        batch_size,
        aspect_groups(records) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
        rank=comm.get_rank(),
        world_size=world_size,
    )
    return TrainLoader(
        records,
        chosen["mapper"],
        batches,
        seed=seed,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        max_damaged=cfg.DEEPFUSE_D2.DATALOADER.MAX_DAMAGED,
        max_worker_deaths=cfg.DEEPFUSE_D2.DATALOADER.MAX_WORKER_DEATHS,
        **options,
    )


def _sampler_by_seed(cfg: CfgNode, sampler: Sampler, count: int) -> Callable[[int], Sampler]:
    def with_seed(seed: int) -> Sampler:
        if cfg.DATALOADER.SAMPLER_TRAIN == "RandomSubsetTrainingSampler":
            ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
            return RandomSubsetTrainingSampler(count, ratio, seed_shuffle=seed, seed_subset=seed)
        sampler._seed = seed  # of all others, it is all that is random
        return sampler

    return with_seed


def _as_it_is(batch: list) -> list:
    return batch
