"""Inference of a dense prediction: whole or in tiles, at several scales, flipped, in little memory.

Everything runs as streams of row bands (row_bands.py). What is held of an image at full size:

    one view, labels     nothing but the labels
    one view, logits     the logits
    several views        the sum of the probabilities, K float maps once

On top come the logits as the network gives them, at the stride of its head, whole or a row of tiles
at a time. So labels of tiles that are small against the image never need K float maps twice, even
of a head of stride 1.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ...errors import ConfigError
from ..postprocessing import row_bands
from ..postprocessing.tiling import predict_in_tiles

__all__ = ["DenseInference"]

OUTPUTS = ("logits", "labels")


class DenseInference:
    """How an image becomes logits or labels of its size.

    With one view (one scale, no flip) logits are the network's. Several views are averaged as
    probabilities, after each has been resized; "logits" are then the logarithms of the mean
    probabilities.
    """

    @configurable
    def __init__(
        self,
        *,
        output: str = "logits",
        tile: Sequence[int] = (0, 0),
        tile_overlap: int = 128,
        tile_batch: int = 1,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ):
        """
        Args:
            output: "logits" (K, H, W), float32, or "labels" (H, W), the best class as uint8 (int32
                from 257 classes on).
            tile: (height, width) of a tile in pixels of the scaled image; (0, 0) takes the image as
                a whole. Rounded up to what the network can divide.
            tile_overlap: pixels that neighbours share at least; rounded up likewise.
            tile_batch: tiles that go through the network at once.
            scales: factors by which the image is resized, each a view.
            flip: add the mirrored image to each scale.
        """
        tile = tuple(tile)
        if output not in OUTPUTS:
            raise ConfigError(
                f'DEEPFUSE_D2.TEST.SEM_SEG.OUTPUT = "{output}" is unknown; choose one of '
                f"{list(OUTPUTS)}."
            )
        if len(tile) != 2 or min(tile) < 0 or (min(tile) == 0) != (max(tile) == 0):
            raise ConfigError(
                f"DEEPFUSE_D2.TEST.SEM_SEG.TILE is {list(tile)}; give height and width in pixels, "
                "or [0, 0] to take images as a whole."
            )
        if any(tile) and not 0 <= tile_overlap < min(tile):
            raise ConfigError(
                f"DEEPFUSE_D2.TEST.SEM_SEG.TILE_OVERLAP is {tile_overlap} pixels; it must be 0 or "
                f"more and smaller than both sides of DEEPFUSE_D2.TEST.SEM_SEG.TILE, {list(tile)}."
            )
        if not scales or min(scales) <= 0 or tile_batch < 1:
            raise ConfigError(
                f"DEEPFUSE_D2.TEST.SEM_SEG.SCALES is {list(scales)} and TILE_BATCH {tile_batch}; "
                "give at least one scale, all above 0, and a batch of 1 or more."
            )
        self.output = output
        self.tile = tile
        self.tile_overlap = tile_overlap
        self.tile_batch = tile_batch
        self.scales = tuple(scales)
        self.flip = flip

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        test = cfg.DEEPFUSE_D2.TEST.SEM_SEG
        return {
            "output": test.OUTPUT,
            "tile": test.TILE,
            "tile_overlap": test.TILE_OVERLAP,
            "tile_batch": test.TILE_BATCH,
            "scales": test.SCALES,
            "flip": test.FLIP,
        }

    @property
    def takes_batches(self) -> bool:
        """Whether images can go through the network side by side: one view, as a whole."""
        return not any(self.tile) and self.scales == (1.0,) and not self.flip

    def __call__(
        self,
        predict: Callable[[Tensor], Tensor],
        prepare: Callable[[Tensor], Tensor],
        image: Tensor,
        size: tuple[int, int],
        divisor: int,
    ) -> Tensor:
        """Predict one image.

        Args:
            predict: (B, C, h, w), sides multiples of `divisor` -> logits (B, K, h / q, w / q).
            prepare: (C, h, w) pixels -> normalised and padded at the right and the bottom.
            image: (C, H, W) pixels.
            size: (height, width) of the result.
            divisor: of the sides that the network takes.
        """
        mirrored = (False, True) if self.flip else (False,)
        views = list(itertools.product(self.scales, mirrored))
        if len(views) == 1:
            return self.finish(self._view(predict, prepare, image, size, divisor, *views[0]), size)
        total = None
        for view in views:
            top = 0
            for band in self._view(predict, prepare, image, size, divisor, *view):
                if total is None:
                    total = band.new_zeros(band.shape[0], *size)
                rows = slice(top, top + band.shape[-2])
                total[:, rows] += band.softmax(dim=0)
                top = rows.stop
        if self.output == "labels":
            return row_bands.labels_of(row_bands.in_pieces([total]))
        tiny = torch.finfo(total.dtype).tiny
        return total.div_(len(views)).clamp_(min=tiny).log_()

    def finish(self, bands: Iterable[Tensor], size: tuple[int, int]) -> Tensor:
        """Bands of full-size logits -> logits or labels."""
        if self.output == "labels":
            return row_bands.labels_of(bands)
        return row_bands.join(bands, size[0])

    def _view(
        self,
        predict: Callable[[Tensor], Tensor],
        prepare: Callable[[Tensor], Tensor],
        image: Tensor,
        size: tuple[int, int],
        divisor: int,
        scale: float,
        flipped: bool,
    ) -> Iterator[Tensor]:
        """Logits of the image, scaled and mirrored, as bands of an upright map of `size`."""
        image = _scaled(image, scale)
        padded = prepare(image.flip(-1) if flipped else image)
        if any(self.tile):
            tile = tuple(_round_up(side, divisor) for side in self.tile)
            overlap = _round_up(self.tile_overlap, divisor)
            if overlap >= min(tile):
                raise ConfigError(
                    f"DEEPFUSE_D2.TEST.SEM_SEG.TILE and TILE_OVERLAP become {list(tile)} and "
                    f"{overlap} as multiples of {divisor}, which this network needs; then no tile "
                    "advances. Give a larger TILE or a smaller TILE_OVERLAP."
                )
            bands = predict_in_tiles(
                predict,
                padded,
                tile=tile,
                overlap=overlap,
                divisor=divisor,
                batch=self.tile_batch,
            )
        else:
            bands = iter([predict(padded[None])[0].float()])
        return to_size(bands, padded.shape[-2:], image.shape[-2:], size, flipped)


def to_size(
    bands: Iterator[Tensor],
    padded: tuple[int, int],
    content: tuple[int, int],
    size: tuple[int, int],
    flipped: bool = False,
) -> Iterator[Tensor]:
    """Resize the network's logits to the image it saw, cut the padding, resize to `size`.

    The two steps are detectron2's ``sem_seg_postprocess``.

    Args:
        bands: (K, rows, padded width / q) logits of stride q.
        padded, content: (height, width) of the network's input, and of the image in its top left.
        size: of the result.
        flipped: mirror the result.
    """
    bands = row_bands.in_pieces(bands)
    first = next(bands)
    stride = padded[1] // first.shape[-1]
    bands = row_bands.resize(itertools.chain([first], bands), padded[0] // stride, padded)
    bands = row_bands.crop(bands, content)
    bands = row_bands.resize(bands, content[0], size)
    for band in bands:
        yield band.flip(-1) if flipped else band


def _scaled(image: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    # antialiased, as the resizing of the data loader is
    return F.interpolate(
        image[None].float(), size=size, mode="bilinear", align_corners=False, antialias=True
    )[0]


def _round_up(number: int, divisor: int) -> int:
    return -(-number // divisor) * divisor
