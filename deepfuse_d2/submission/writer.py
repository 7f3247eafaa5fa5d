"""A detectron2 evaluator that writes a submission instead of figures."""

from __future__ import annotations

import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..errors import ConfigError, UserError
from .cityscapes import CityscapesInstances, CityscapesPixels
from .files import pack
from .voc import VocSegmentation

__all__ = ["FORMATS", "SubmissionWriter", "build_submission_writer"]

logger = logging.getLogger(__name__)

# `submission_format` of a data set's metadata; Cityscapes and its layout have one by their
# `evaluator_type`.
FORMATS: dict[str, Callable[[Any], Any]] = {
    "cityscapes_instance": CityscapesInstances,
    "cityscapes_sem_seg": CityscapesPixels,
    "voc": VocSegmentation,
}

# Says that a folder is an unfinished submission of ours, which may be deleted.
_MARK = ".unfinished_submission"
_MOST_PROBLEMS = 10


def build_submission_writer(dataset_name: str, output_dir: str) -> SubmissionWriter:
    """Writer for `train_net.py --eval-only` on a split without labels.

    The submission goes to `submission` in `output_dir`, or `submission_2`, `submission_3` ...: one
    that is there stays.
    """
    return SubmissionWriter(dataset_name, os.path.join(output_dir, "submission"), number=True)


class SubmissionWriter(DatasetEvaluator):
    """Writes what a model finds in all images of a data set in the layout of the test server.

    The folder holds `results` and the archive of it to upload. It appears under its name when it is
    complete and has passed the check: one file for each image, sizes and ids right, no other file.
    Until then the files lie beside it, in a folder `<name>.unfinished`, which several processes
    share (on several machines it must be a shared file system) and which stays after a failed
    check.

    `process` takes detectron2's outputs (`instances`, with masks also unpasted or as RLE, or
    `sem_seg`); `evaluate` returns no figures.

    Example:
        >>> writer = SubmissionWriter("cityscapes_fine_instance_seg_test", "output/submission")
        >>> inference_on_dataset(model, loader, writer)
    """

    #: Masks may come as the mask head leaves them, see modeling/postprocessing/unpasted.py.
    accepts_unpasted_masks = True

    def __init__(
        self,
        dataset_name: str,
        folder: str | os.PathLike,
        *,
        overwrite: bool = False,
        number: bool = False,
    ):
        """
        Args:
            dataset_name: a registered data set; its metadata say which layout.
            folder: to make.
            overwrite: whether a submission of that name gives way once the new one is complete.
            number: whether a name that is taken gets a number.

        Raises:
            ConfigError: the data set has no layout of a submission, or the folder exists.
        """
        metadata = MetadataCatalog.get(dataset_name)
        kind = metadata.get("submission_format") or metadata.get("evaluator_type")
        if kind not in FORMATS:
            raise ConfigError(
                f'No submission is known for data set "{dataset_name}" (submission_format, or '
                f"evaluator_type, is {kind!r} in its metadata); known are those of {list(FORMATS)}."
            )
        self._format = FORMATS[kind](metadata)
        self._dataset_name = dataset_name
        self._overwrite, self._number = overwrite, number
        self._folder = Path(os.path.abspath(folder))
        self._unfinished = self._folder.with_name(f"{self._folder.name}.unfinished")
        self._target()
        self._records: dict[str, dict[str, Any]] = {}

    def reset(self) -> None:
        """Start with an empty unfinished folder."""
        records = DatasetCatalog.get(self._dataset_name)
        self._records = {os.path.abspath(record["file_name"]): record for record in records}
        if comm.is_main_process():
            if self._unfinished.exists():
                if not (self._unfinished / _MARK).is_file():
                    raise ConfigError(f"{self._unfinished} is in the way; move it elsewhere.")
                shutil.rmtree(self._unfinished)
            self._results.mkdir(parents=True)
            (self._unfinished / _MARK).touch()
        comm.synchronize()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for entry, output in zip(inputs, outputs, strict=True):
            image = os.path.abspath(entry["file_name"])
            if image not in self._records:
                raise ConfigError(
                    f'Image {image} is not in data set "{self._dataset_name}" '
                    f"({len(self._records)} images); give the name of the data set that the "
                    "images come from."
                )
            self._format.write(self._results, self._records[image], output)

    def evaluate(self) -> dict:
        """Check, pack and name the submission, on the main process.

        Returns:
            an empty dict: there are no figures.

        Raises:
            UserError: the check failed; the message lists what is wrong.
        """
        comm.synchronize()
        if comm.is_main_process():
            self._check()
            logger.info("Packing %s", self._format.archive)
            pack(self._results, self._unfinished / self._format.archive, inside=self._format.inside)
            target = self._target()
            (self._unfinished / _MARK).unlink()
            _put_in_place(self._unfinished, target)
            logger.info(
                "The submission for the %d images of %s is complete: upload %s",
                len(self._records),
                self._dataset_name,
                target / self._format.archive,
            )
        return OrderedDict()

    @property
    def _results(self) -> Path:
        return self._unfinished / self._format.folder

    def _check(self) -> None:
        problems = self._format.check(self._results, list(self._records.values()))
        if problems:
            more = len(problems) - _MOST_PROBLEMS
            raise UserError(
                f"The submission in {self._unfinished} failed its check: "
                + "; ".join(problems[:_MOST_PROBLEMS])
                + (f"; and {more} more" if more > 0 else "")
                + "."
            )

    def _target(self) -> Path:
        """Return the name to give; raise if it is taken and must not be given again."""
        folder, number = self._folder, 1
        while _holds_something(folder) and not self._overwrite:
            if not self._number:
                raise ConfigError(
                    f"{folder} exists and is not empty; give another folder, or overwrite it "
                    "(--overwrite)."
                )
            number += 1
            folder = self._folder.with_name(f"{self._folder.name}_{number}")
        if self._overwrite and _holds_something(folder):
            names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
            if not names <= {self._format.folder, self._format.archive}:
                raise ConfigError(
                    f"{folder} holds more than a submission ({self._format.folder}, "
                    f"{self._format.archive}); it is not overwritten. Give another folder."
                )
        return folder


def _holds_something(folder: Path) -> bool:
    return os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir()))


def _put_in_place(made: Path, target: Path) -> None:
    """Rename `made` to `target`; what is there goes when its successor stands."""
    old = target.with_name(f"{target.name}.old")
    if os.path.lexists(target):
        os.rename(target, old)
    os.rename(made, target)
    if old.is_dir():
        shutil.rmtree(old)
