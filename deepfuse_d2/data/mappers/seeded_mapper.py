"""A mapper whose result depends on the seed and the place in the stream alone, and that survives
damaged images.

Whichever worker process makes a sample, in whichever order, it is the same; so is a sample that is
made again after a training was interrupted.
"""

import errno
import struct
import traceback
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import SizeMismatchError
from torch.utils.data import Dataset, get_worker_info

from ...errors import DatasetError, ImageError
from ...randomness import seeded

__all__ = ["DAMAGED", "RecordError", "SeededSamples", "is_damage"]

# Key of a sample that stands in for records that could not be read: [{"file", "error"}, ...].
DAMAGED = "deepfuse_damaged"

# As often is another record drawn for one that cannot be read.
_ATTEMPTS = 16

# What says that this process or machine is in trouble, and not the file.
_OWN_TROUBLE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EINTR}


class RecordError(RuntimeError):
    """The mapper failed on a record for another reason than a file that cannot be read."""


class SeededSamples(Dataset):
    """Samples by (position, index): ``mapper(records[index])``, seeded by (seed, position).

    A record whose image or labels cannot be read gives way to another one, drawn by the seed and
    the position, and is named in the sample under the key :data:`DAMAGED`. So does a record for
    which the mapper returns None, which is not named.

    Args:
        records: each item a dict that the mapper may change.
        mapper: see detectron2's ``DatasetMapper``.
        seed: 0 or more.
        workers: worker processes of the loader; 0 for none.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
        seed: int,
        workers: int = 0,
    ):
        self.records = records
        self.mapper = mapper
        if hasattr(mapper, "use_records"):
            mapper.use_records(records)
        self.seed = seed
        # What each worker works on, for the one who has to tell why it died.
        self.at_work = torch.full((workers,), -1, dtype=torch.int64).share_memory_()
        # Whether the workers may leave.
        self.closing = torch.zeros(1, dtype=torch.uint8).share_memory_()

    def close(self) -> None:
        """Tell the workers that they may leave."""
        self.closing[0] = 1

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, pick: tuple[int, int]) -> dict[str, Any]:
        """Sample at ``pick`` = (position in the stream, index of the record).

        Raises:
            RecordError: the mapper failed for another reason than a damaged file.
            DatasetError: so many records in a row cannot be read that it is not the images.
        """
        position, index = pick
        damaged = []
        others = np.random.default_rng([self.seed, position])
        for _ in range(_ATTEMPTS):
            sample = self._try(position, index, damaged)
            if sample is not None:
                return {**sample, DAMAGED: damaged} if damaged else sample
            index = int(others.integers(len(self.records)))
        raise DatasetError(
            f"{_ATTEMPTS} records in a row gave no sample"
            + (f"; the last: {damaged[-1]['file']}: {damaged[-1]['error']}" if damaged else "")
            + ". Is the data set still where it was?"
        )

    def _try(self, position: int, index: int, damaged: list) -> dict[str, Any] | None:
        worker = get_worker_info()
        if worker is not None and worker.id < len(self.at_work):
            self.at_work[worker.id] = index
        record = self.records[index]
        file = str(record.get("file_name", f"record {index}"))
        try:
            with seeded(self.seed, position):
                return self.mapper(record)
        except Exception as error:
            if not is_damage(error):
                raise RecordError(
                    f"The mapper failed on {file} (record {index}): {type(error).__name__}: {error}"
                ) from error
            named = getattr(error, "filename", None)
            damaged.append(
                {"file": str(named or file), "error": f"{type(error).__name__}: {error}"}
            )
            return None


def is_damage(error: Exception) -> bool:
    """Whether `error` comes from a file that is missing, cut short or not what its record says."""
    if isinstance(error, OSError):
        return error.errno not in _OWN_TROUBLE
    if isinstance(error, (ImageError, SizeMismatchError, EOFError, zlib.error, struct.error)):
        return True
    # Pillow reports a broken PNG as SyntaxError, and other formats as ValueError or IndexError.
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "/PIL/" in frames[-1].filename.replace("\\", "/")
