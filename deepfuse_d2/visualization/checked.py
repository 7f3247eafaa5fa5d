"""A contact sheet of data sets that were checked, the images with problems first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ..data.check import Report
from .drawing import sheet
from .samples import draw_sample

__all__ = ["draw_checked"]

BAR = 22  # pixels above each tile of the sheet
RED, GREY = (30, 30, 200), (70, 70, 70)  # BGR


def draw_checked(reports: Sequence[Report], count: int) -> np.ndarray:
    """A sheet of `count` pictures, as many of each data set; those with problems come first."""
    tiles: list[np.ndarray] = []
    for number, report in enumerate(reports):
        # what one does not use up goes to the next
        left = (count - len(tiles)) // (len(reports) - number)
        for index in chosen(report, left):
            tiles.append(tile(report, index))
    return sheet(tiles, columns=min(4, len(tiles)))


def chosen(report: Report, count: int) -> list[int]:
    """Return records to show: up to half of them with problems, the others spread evenly."""
    bad = [i for i, facts in enumerate(report.facts) if facts.problems]
    bad = bad[: max(count // 2, 1)] if count else []
    good = [i for i, facts in enumerate(report.facts) if not facts.problems]
    picks = np.linspace(0, len(good) - 1, min(count - len(bad), len(good))).astype(int)
    return bad + [good[i] for i in picks]


def tile(report: Report, index: int, width: int = 384) -> np.ndarray:
    """A picture with its labels under a bar with its name, red where there is a problem."""
    record, facts = report.records[index], report.facts[index]
    try:
        picture = draw_sample(record, report.name, width)
    except Exception as error:  # what is broken can fail anywhere in the drawing
        picture = np.full((width // 2, width, 3), 230, np.uint8)
        _write(picture, f"cannot be drawn ({type(error).__name__})", (8, width // 4), GREY)
    bar = np.full((BAR, width, 3), RED if facts.problems else GREY, np.uint8)
    name = Path(record["file_name"]).name
    text = f"{report.name}: {name}" if len(report.name + name) < 48 else name
    _write(bar, text, (6, 15), (255, 255, 255))
    sample = np.concatenate([bar, picture])
    if facts.problems:
        cv2.rectangle(sample, (0, 0), (width - 1, sample.shape[0] - 1), RED, 4)
    return sample


def _write(image: np.ndarray, text: str, at: tuple[int, int], color: tuple[int, int, int]) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)
