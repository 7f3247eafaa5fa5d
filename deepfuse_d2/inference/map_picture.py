"""Pictures of maps: classes in colours, with a legend."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ..data.raster_files import rasterio_or_explain

__all__ = ["class_colors", "color_map", "draw_map"]

_LARGEST = 2000
_LEGEND = 190
_ROW = 22
_PAPER, _INK, _NOTHING = (255, 255, 255), (30, 30, 30), (230, 230, 230)


def class_colors(count: int, colors: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """(count, 3) uint8; those given, or hues that follow each other at the golden angle."""
    if colors is not None and len(colors) >= count:
        return np.array(colors[:count], dtype=np.uint8).reshape(-1, 3)
    import colorsys

    hues = [
        colorsys.hls_to_rgb(i * 0.618 % 1, 0.4 + 0.12 * (i % 3), 0.55) for i in range(max(count, 1))
    ]
    return (np.array(hues) * 255).astype(np.uint8)


def color_map(labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """(H, W) class ids -> (H, W, 3) uint8; grey for what is no class."""
    table = np.full((256, 3), _NOTHING, dtype=np.uint8)
    table[: len(colors)] = colors
    return table[labels]


def draw_map(
    raster: str | os.PathLike,
    picture: str | os.PathLike,
    classes: Sequence[str] = (),
    colors: Sequence[Sequence[int]] | None = None,
) -> None:
    """Draw a map of :func:`~.rasters.predict_raster` beside its legend, at most 2000 pixels wide.

    Args:
        raster: GeoTIFF of class ids; a large one is read at a coarser resolution.
        picture: PNG to write.
    """
    rasterio = rasterio_or_explain("Reading a GeoTIFF")
    with rasterio.open(raster) as file:
        factor = max(file.height, file.width, 1) / _LARGEST
        size = tuple(max(1, round(side / max(factor, 1))) for side in file.shape)
        labels = file.read(1, out_shape=size)
    count = max(len(classes), int(labels[labels < 255].max(initial=0)) + 1)
    table = class_colors(count, colors)
    # small scenes are enlarged by whole factors, so that a pixel is seen as one
    enlarge = max(1, 600 // max(size))
    pixels = color_map(labels, table).repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    height = max(len(pixels), _ROW * (count + 1))
    sheet = Image.new("RGB", (pixels.shape[1] + _LEGEND, height), _PAPER)
    sheet.paste(Image.fromarray(pixels), (0, 0))
    pen = ImageDraw.Draw(sheet)
    for i in range(count):
        left, top = pixels.shape[1] + 12, 8 + i * _ROW
        pen.rectangle([left, top, left + 14, top + 14], fill=tuple(table[i].tolist()))
        name = classes[i] if i < len(classes) else str(i)
        pen.text((left + 22, top + 1), name, fill=_INK)
    sheet.save(picture)
