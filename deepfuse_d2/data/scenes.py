"""Scenes of a time series and an image on disk, and their windows.

A scene has two grids: that of the series, and one `ratio` times as fine for the image. A window is
given in pixels of the series, and reads just that part of every file. NumPy files (PASTIS) and
GeoTIFFs (one a date, or one stack) serve alike.
"""

import datetime
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import DatasetError
from .raster_files import read_raster

__all__ = ["Scene", "Window", "date_in_name", "days_of", "read_scene", "windows_of"]

_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?!\d)")


class Window(NamedTuple):
    """A part of a scene, in pixels of the series."""

    top: int
    left: int
    height: int
    width: int

    def times(self, ratio: int) -> "Window":
        """The same part in pixels of the image."""
        return Window(*(side * ratio for side in self))

    def inside(self, top: int, left: int, height: int, width: int) -> "Window":
        """A part of this one, given from its corner."""
        return Window(self.top + top, self.left + left, height, width)


class Scene(NamedTuple):
    """Where the parts of a scene lie. Plain values, so that a loader's processes can have it."""

    #: (height, width) of the whole scene in pixels of the series.
    size: tuple[int, int]
    ratio: int
    #: Image of `ratio` times the size, or "".
    image: str = ""
    #: One file a date, or one of all dates; none without a series.
    series: tuple[str, ...] = ()
    #: Of each date, see :func:`days_of`.
    days: tuple[int, ...] = ()
    #: How one file of all dates is ordered: "dates_first" (all bands of the first date, then of the
    #: second) or "bands_first".
    order: str = "dates_first"
    #: Clouds of each date, not 0 where the ground is hidden: a file a date, or one of all; or none.
    clouds: tuple[str, ...] = ()
    #: Value that stands for "no data" in the series; None where files say so themselves.
    no_data: float | None = None
    #: (affine transform as six numbers, CRS) of the series that other grids are brought to by
    #: reprojection; () reads files as they are.
    grid: tuple = ()


def days_of(dates: Sequence[datetime.date]) -> tuple[int, ...]:
    """Days since 1 January of the year of the earliest date: the season, and the years between."""
    if not dates:
        return ()
    start = datetime.date(min(dates).year, 1, 1)
    return tuple((date - start).days for date in dates)


def date_in_name(name: str) -> datetime.date | None:
    """The one date in a file name, as YYYYMMDD or with - or _ between; None without."""
    found = {datetime.date(*map(int, match)) for match in _DATE.findall(name)}
    return found.pop() if len(found) == 1 else None


def windows_of(size: tuple[int, int], side: int) -> list[Window]:
    """Windows of `side` pixels that cover a scene; those at its end are smaller."""
    return [
        Window(top, left, min(side, size[0] - top), min(side, size[1] - left))
        for top in range(0, size[0], side)
        for left in range(0, size[1], side)
    ]


def read_scene(scene: Scene, window: Window, *, with_image: bool = True) -> dict[str, np.ndarray]:
    """What a scene holds in a window.

    Returns:
        "image" (C, r h, r w) and "image_valid" (r h, r w) bool; "time_series" (T, C, h, w), "days"
        (T,) and "usable" (T, h, w) bool: no cloud, a number in every band, and not "no data".

    Raises: DatasetError: a file is missing, damaged, or does not fit the scene.
    """
    found: dict[str, np.ndarray] = {}
    if scene.image and with_image:
        grid = _scaled(scene.grid, scene.ratio)
        image, valid = read_raster(scene.image, window.times(scene.ratio), grid)
        found |= {"image": image, "image_valid": valid}
    if scene.series:
        series, usable = _read_series(scene, window)
        found |= {"time_series": series, "usable": usable, "days": np.array(scene.days)}
    return found


def _read_series(scene: Scene, window: Window) -> tuple[np.ndarray, np.ndarray]:
    count = len(scene.days)
    if len(scene.series) == count and (count > 1 or not scene.series[0].endswith(".npy")):
        parts = [read_raster(path, window, scene.grid, scene.no_data) for path in scene.series]
        series = np.stack([values for values, _ in parts])
        usable = np.stack([valid for _, valid in parts])
    else:
        series, valid = read_raster(scene.series[0], window, scene.grid, scene.no_data)
        if series.ndim == 3:
            series = _dates_apart(series, scene)
        if len(series) != count:
            raise DatasetError(
                f"{scene.series[0]} holds {len(series)} dates; {count} are known of it."
            )
        usable = np.broadcast_to(valid, (count, *valid.shape[-2:])).copy()
    # one band without a number spoils the date
    if series.dtype.kind == "f":
        usable &= np.isfinite(series).all(axis=1)
    if scene.clouds:
        usable &= ~_read_clouds(scene, window)
    return series, usable


def _dates_apart(stack: np.ndarray, scene: Scene) -> np.ndarray:
    """(T C, h, w) or (C T, h, w) -> (T, C, h, w)"""
    count = len(scene.days)
    if len(stack) % count:
        raise DatasetError(
            f"{scene.series[0]} has {len(stack)} bands, no multiple of its {count} dates."
        )
    if scene.order == "bands_first":
        return stack.reshape(-1, count, *stack.shape[1:]).swapaxes(0, 1)
    return stack.reshape(count, -1, *stack.shape[1:])


def _read_clouds(scene: Scene, window: Window) -> np.ndarray:
    if len(scene.clouds) == len(scene.days):
        masks = [read_raster(path, window, scene.grid, nearest=True)[0] for path in scene.clouds]
        return np.stack([mask.any(axis=0) for mask in masks])
    masks = read_raster(scene.clouds[0], window, scene.grid, nearest=True)[0]
    if len(masks) != len(scene.days):
        raise DatasetError(
            f"{scene.clouds[0]} holds clouds of {len(masks)} dates; the series has "
            f"{len(scene.days)}."
        )
    return masks != 0


def _scaled(grid: tuple, ratio: int) -> tuple:
    if not grid:
        return ()
    (a, b, c, d, e, f), crs = grid
    return (a / ratio, b / ratio, c, d / ratio, e / ratio, f), crs
