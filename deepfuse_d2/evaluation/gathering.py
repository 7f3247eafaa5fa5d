"""Bringing the records of all ranks to the main one."""

from __future__ import annotations

from typing import TypeVar

from detectron2.utils import comm

__all__ = ["gather_by_image"]

Record = TypeVar("Record")


def gather_by_image(
    records: dict[str, Record], extra: object, *, distributed: bool
) -> tuple[list[Record], list[object]] | None:
    """Return the records of all ranks in the order of image names, each image once.

    Of an image that several ranks have, as padding samplers do, the lowest rank's record stays.

    Args:
        records: image -> record of this rank.
        extra: anything small; all ranks' are returned, by rank.
        distributed: False keeps to this rank.

    Returns:
        records and extras; None off the main rank.
    """
    gathered = [(records, extra)]
    if distributed:
        comm.synchronize()
        gathered = comm.gather(gathered[0])
        if not comm.is_main_process():
            return None
    merged: dict[str, Record] = {}
    for of_rank, _ in reversed(gathered):
        merged.update(of_rank)  # the lowest rank last, so that its record stays
    return [merged[image] for image in sorted(merged)], [extra for _, extra in gathered]
