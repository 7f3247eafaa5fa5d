"""The loader of an evaluation: what cannot be read is named and left out, as in training."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader

from ...errors import DatasetError
from ..mappers.seeded_mapper import is_damage
from .records import load_records

__all__ = ["TestLoader", "build_test_loader"]


class TestLoader:
    """Batches of a data set once, in order, without those images that cannot be read.

    Args:
        loader: of samples made by :class:`_Tolerant`.
        max_damaged: files that may turn out unreadable before the evaluation stops.
    """

    __test__ = False  # for pytest: no test

    def __init__(self, loader: Any, max_damaged: int):
        self.loader, self.max_damaged = loader, max_damaged
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        damaged: dict[str, str] = {}
        for batch in self.loader:
            for one in (sample for sample in batch if isinstance(sample, _Damaged)):
                damaged[one.file] = one.error
                logging.getLogger(__name__).error(
                    "%s cannot be read and is left out of the evaluation (%d of %d that "
                    "DEEPFUSE_D2.DATALOADER.MAX_DAMAGED allows): %s",
                    one.file, len(damaged), self.max_damaged, one.error,
                )  # fmt: skip
            if len(damaged) > self.max_damaged:
                listed = "\n".join(f"  {file}: {error}" for file, error in damaged.items())
                raise DatasetError(
                    f"{len(damaged)} files to evaluate on cannot be read; "
                    f"DEEPFUSE_D2.DATALOADER.MAX_DAMAGED allows {self.max_damaged}:\n{listed}\n"
                    "Replace them, or raise the limit. deepfuse check-data lists all of a set."
                )
            sound = [sample for sample in batch if not isinstance(sample, _Damaged)]
            if sound:
                yield sound


class _Damaged:
    """Stands for a sample that could not be made."""

    def __init__(self, file: str, error: str):
        self.file, self.error = file, error


class _Tolerant:
    """`mapper`, with :class:`_Damaged` for an image that cannot be read."""

    def __init__(self, mapper: Callable[[dict[str, Any]], dict[str, Any]]):
        self.mapper = mapper

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | _Damaged:
        try:
            return self.mapper(record)
        except Exception as error:
            if not is_damage(error):
                raise
            reason = " ".join(str(error).split())
            return _Damaged(str(record.get("file_name")), f"{type(error).__name__}: {reason}")


def build_test_loader(
    cfg: CfgNode,
    dataset_name: str,
    mapper: Callable[[dict[str, Any]], dict[str, Any]],
) -> TestLoader:
    """The loader that evaluates a data set of DATASETS.TEST.

    Args:
        mapper: record -> sample.
    """
    proposals = None
    if cfg.MODEL.LOAD_PROPOSALS:
        files = zip(cfg.DATASETS.TEST, cfg.DATASETS.PROPOSAL_FILES_TEST, strict=True)
        proposals = [file for name, file in files if name == dataset_name]
    records = load_records((dataset_name,), filter_empty=False, proposal_files=proposals)
    loader = build_detection_test_loader(
        records,
        mapper=_Tolerant(mapper),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    # a config of detectron2 alone evaluates too
    own = cfg.get("DEEPFUSE_D2")
    return TestLoader(loader, own.DATALOADER.MAX_DAMAGED if own else 0)
