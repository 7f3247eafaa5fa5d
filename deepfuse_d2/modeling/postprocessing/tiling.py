"""A dense prediction tile by tile: overlapping tiles, blended, as a stream of row bands.

Along each axis, tiles start at multiples of the network's stride, so that they sample the image
where the whole image would be sampled. Of two neighbours that overlap by v, the quarter next to a
tile's own end counts nothing, because the network saw the border there; over the half between them
the weight moves linearly from one to the other. Hence a network that looks no further than a
quarter of the overlap gives, tile by tile, what it gives on the whole image.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["blend_weights", "predict_in_tiles", "tile_starts"]


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of `tile` pixels start, each overlapping the next by `overlap` at least.

    The last one ends at `length`; a `length` up to `tile` needs one tile.
    """
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def blend_weights(starts: Sequence[int], length: int, tile: int) -> Tensor:
    """(tiles, length) weights of the tiles along one axis; they sum to 1 everywhere.

    The weight of a tile is 0 outside of it.
    """
    position = torch.arange(length, dtype=torch.float64) + 0.5
    weights = torch.zeros(len(starts), length, dtype=torch.float64)
    weights[0] = 1
    for number in range(1, len(starts)):
        start, end = starts[number], min(starts[number - 1] + tile, length)
        overlap = end - start
        # 0 in the first quarter of the overlap, 1 from the last quarter on
        takes = ((position - start - overlap / 4) / (overlap / 2)).clamp(0, 1)
        weights[:number] *= 1 - takes
        weights[number] = takes
    return weights


def predict_in_tiles(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    tile: tuple[int, int],
    overlap: int,
    divisor: int,
    batch: int = 1,
) -> Iterator[Tensor]:
    """Yield the blended prediction of an image in row bands, from top to bottom.

    Holds one row of tiles of the prediction and the tiles in work. A band is overwritten when the
    next one is asked for.

    Args:
        predict: (B, C, h, w) -> (B, K, h / q, w / q) with one stride q for all sizes.
        image: (C, H, W); H and W are multiples of `divisor`.
        tile: (height, width) in pixels, multiples of `divisor`.
        overlap: pixels, a multiple of `divisor` and smaller than the tile.
        divisor: tiles start at its multiples; itself a multiple of q.
        batch: tiles to predict at once.

    Yields:
        (K, rows, W / q) float32; the rows add up to H / q.
    """
    height, width = image.shape[-2:]
    tile_height, tile_width = min(tile[0], height), min(tile[1], width)
    tops = tile_starts(height, tile_height, overlap)
    lefts = tile_starts(width, tile_width, overlap)
    for numbers in (height, width, tile_height, tile_width, overlap):
        assert numbers % divisor == 0, f"{numbers} pixels are no multiple of {divisor}"

    held: Tensor | None = None  # rows from `top` on, of the whole width
    for row, top in enumerate(tops):
        strip = image[:, top : top + tile_height]
        for first in range(0, len(lefts), batch):
            some = lefts[first : first + batch]
            tiles = torch.stack([strip[..., left : left + tile_width] for left in some])
            found = predict(tiles).float()
            if held is None:
                stride = tile_width // found.shape[-1]
                shape = (found.shape[1], tile_height // stride, width // stride)
                held = found.new_zeros(shape)
                across = _blend(lefts, width, tile_width, stride).to(found)
                down = _blend(tops, height, tile_height, stride).to(found)
            rows = slice(top // stride, (top + tile_height) // stride)
            for number, (left, logits) in enumerate(zip(some, found, strict=True), start=first):
                columns = slice(left // stride, (left + tile_width) // stride)
                weight = torch.outer(down[row, rows], across[number, columns])
                held[..., columns].addcmul_(logits, weight)
            del tiles, found, logits  # none is left when the rows go out
        if row + 1 == len(tops):
            yield held
            return
        finished = (tops[row + 1] - top) // stride
        yield held[:, :finished]
        left_over = held[:, finished:].clone()
        held[:, : left_over.shape[1]] = left_over
        held[:, left_over.shape[1] :] = 0
        del left_over


def _blend(starts: Sequence[int], length: int, tile: int, stride: int) -> Tensor:
    """Blend weights on the grid of the prediction."""
    return blend_weights([start // stride for start in starts], length // stride, tile // stride)
