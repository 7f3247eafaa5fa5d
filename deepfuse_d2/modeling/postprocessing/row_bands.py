"""Maps as streams of row bands: resized, cropped, flipped and reduced without ever standing whole.

A full-size map of logits is large: 19 classes at 2048 x 1024 are 160 MB in float32. A stream yields
consecutive bands (K, rows, W) from top to bottom instead; each function here takes a stream and
returns one. Resizing is ``F.interpolate(mode="bilinear", align_corners=False)``.

These are plain functions of tensors. They lie beside the meta-architecture, which calls them by its
config, rather than in `layers`, because no network is built of them, and rather than in
`deepfuse_d2.inference`, which stands above `modeling`.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...structures.best_class import best_class

__all__ = ["crop", "in_pieces", "join", "labels_of", "resize"]

# Rows of a band; 32 rows of 19 classes and 2048 columns are 5 MB.
_ROWS = 32


def in_pieces(bands: Iterable[Tensor], rows: int = _ROWS) -> Iterator[Tensor]:
    """Cut bands into bands of at most `rows` rows.

    The pieces are copies. Views would keep the whole band, while the next one is being made, as
    long as anyone down the stream looks at the last of them.
    """
    for band in bands:
        for top in range(0, band.shape[-2], rows):
            yield band[..., top : top + rows, :].clone()
        del band


def resize(
    bands: Iterable[Tensor], in_height: int, size: tuple[int, int], rows: int = _ROWS
) -> Iterator[Tensor]:
    """Resize a map of `in_height` rows to `size` (height, width), as ``F.interpolate`` does.

    Holds the bands of the input that the next row needs, and a band of at most `rows` rows.
    """
    height, width = size
    if in_height == height:
        for band in bands:
            yield _resize_columns(band, width)
        return
    source, weight = _source_rows(in_height, height)
    last = (source + 1).clamp(max=in_height - 1)
    # python numbers: where a band ends must not wait for the device of the map
    first_needed, last_needed = source.tolist(), last.tolist()
    held, top, bottom, done = None, 0, 0, 0
    for band in bands:
        held = band if held is None else torch.cat([held, band], dim=-2)
        bottom = top + held.shape[-2]
        while done < height and last_needed[done] < bottom:
            end = done + 1
            while end < min(height, done + rows) and last_needed[end] < bottom:
                end += 1
            upper = held.index_select(-2, (source[done:end] - top).to(held.device))
            lower = held.index_select(-2, (last[done:end] - top).to(held.device))
            share = weight[done:end, None].to(held)
            done = end
            yield _resize_columns(torch.lerp(upper, lower, share), width)
        if done < height and first_needed[done] > top:
            # what is needed next may lie below all that came
            passed = min(first_needed[done], bottom) - top
            held, top = held[..., passed:, :], top + passed
    assert done == height, f"{bottom} of {in_height} rows came; {done} of {height} could be made"


def crop(bands: Iterable[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
    """Keep the top left `size` (height, width) of a map; reads no further than it has to."""
    height, width = size
    for band in bands:
        band = band[..., : min(height, band.shape[-2]), :width]
        height -= band.shape[-2]
        yield band
        if not height:
            return


def join(bands: Iterable[Tensor], height: int) -> Tensor:
    """(K, height, W) map of the bands, which need not all be held at a time."""
    whole, top = None, 0
    for band in bands:
        if whole is None:
            whole = band.new_empty(band.shape[0], height, band.shape[-1])
        whole[:, top : top + band.shape[-2]] = band
        top += band.shape[-2]
    assert top == height, f"{top} of {height} rows came"
    return whole


def labels_of(bands: Iterable[Tensor]) -> Tensor:
    """(H, W) index of the largest of K values; uint8, or int32 where K is above 256."""
    return torch.cat([best_class(band)[0] for band in bands])


def _source_rows(in_height: int, height: int) -> tuple[Tensor, Tensor]:
    """For each output row, the input row above its centre, and the share of the row below."""
    centre = (torch.arange(height, dtype=torch.float64) + 0.5) * (in_height / height) - 0.5
    centre = centre.clamp(min=0)
    source = centre.floor().long().clamp(max=in_height - 1)
    return source, centre - source


def _resize_columns(band: Tensor, width: int) -> Tensor:
    if band.shape[-1] == width:
        return band
    size = (band.shape[-2], width)
    return F.interpolate(band[None], size=size, mode="bilinear", align_corners=False)[0]
