"""Masks of the instances of an image that are kept where they are set, not as full images.

A mask of detectron2's ``BitMasks`` has as many pixels as the image, although an instance covers a
hundredth of it. A training copies all of them from worker to trainer, once more for each of the 512
boxes that are sampled, and as floats to resize them to 28 x 28.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes
from torch import Tensor

from ..kernels.roi_samples import axis_matrices, axis_weights
from .mask_crops import MaskCrop

__all__ = ["CroppedMasks"]


class CroppedMasks(BitMasks):
    """Takes the place of a :class:`BitMasks`: same methods, same results.

    Indexing copies no pixels; ``tensor`` makes the full masks, for who wants them.

    Args:
        pixels: bool or uint8 (P,), the crops one after the other, each row by row.
        windows: integers (M, 4), x0, y0, x1, y1 of each crop in the image.
        image_size: height and width.
        index: integers (N,), which crop is the mask of each instance; by default each its own.

    Example:
        >>> masks = CroppedMasks.from_crops([MaskCrop(1, 1, np.ones((2, 3), bool))], (5, 6))
        >>> masks.tensor.shape, masks[[0, 0]].tensor.sum()
        (torch.Size([1, 5, 6]), tensor(12))
    """

    def __init__(
        self,
        pixels: Tensor,
        windows: Tensor,
        image_size: tuple[int, int],
        index: Tensor | None = None,
    ):
        # not BitMasks.__init__, whose attribute `tensor` is a property here
        self.pixels = pixels.view(torch.bool) if pixels.dtype == torch.uint8 else pixels
        self.windows = windows
        self.image_size = torch.Size(image_size)
        self.index = torch.arange(len(windows), device=windows.device) if index is None else index

    @classmethod
    def from_crops(cls, crops: Sequence[MaskCrop], image_size: tuple[int, int]) -> "CroppedMasks":
        """Of one crop an instance."""
        flat = [np.ascontiguousarray(crop.pixels, dtype=np.uint8).ravel() for crop in crops]
        pixels = np.concatenate(flat) if flat else np.zeros(0, dtype=np.uint8)
        boxes = torch.tensor([crop.box for crop in crops], dtype=torch.int64).reshape(-1, 4)
        return cls(torch.from_numpy(pixels), boxes[:, [1, 0, 3, 2]], image_size)

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    @property
    def tensor(self) -> Tensor:
        """(N, H, W) bool masks of the whole image."""
        full = torch.zeros(len(self), *self.image_size, dtype=torch.bool, device=self.device)
        crops = self._crops()
        for mask, chosen in zip(full, self.index.tolist(), strict=True):
            (x0, y0, x1, y1), crop = crops[chosen]
            mask[y0:y1, x0:x1] = crop
        return full

    def _crops(self) -> list[tuple[list[int], Tensor]]:
        """Window and (h, w) mask of each crop."""
        windows = self.windows.tolist()
        areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in windows]
        return [
            (window, pixels.view(window[3] - window[1], window[2] - window[0]))
            for window, pixels in zip(windows, self.pixels.split(areas), strict=True)
        ]

    def to(self, *args, **kwargs) -> "CroppedMasks":
        pixels = self.pixels.to(*args, **kwargs)
        device = pixels.device
        return CroppedMasks(pixels, self.windows.to(device), self.image_size, self.index.to(device))

    def __getitem__(self, item) -> "CroppedMasks":
        if isinstance(item, int):
            item = [item]
        elif isinstance(item, Tensor):
            item = item.to(self.index.device)
        chosen = self.index[item]
        assert chosen.ndim == 1, f"Indexing with {item} gives indices of shape {chosen.shape}"
        return CroppedMasks(self.pixels, self.windows, self.image_size, chosen)

    def __iter__(self) -> Iterator[Tensor]:
        for i in range(len(self)):
            yield self[i].tensor[0]

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"CroppedMasks(num_instances={len(self)})"

    def nonempty(self) -> Tensor:
        """(N,) bool: whether any pixel is set."""
        found = torch.tensor([bool(crop.any()) for _, crop in self._crops()], dtype=torch.bool)
        return found.to(self.device)[self.index]

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes; all zero for an empty mask."""
        boxes = []
        for (x0, y0, _, _), crop in self._crops():
            columns, rows = (crop.any(dim).nonzero().flatten().tolist() for dim in (0, 1))
            box = [0, 0, 0, 0]
            if columns:
                box = [x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1]
            boxes.append(box)
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        # on the CPU, as those of BitMasks
        return Boxes(boxes[self.index.cpu()])

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """RoIAlign of each mask to its box, as :meth:`BitMasks.crop_and_resize` does it.

        Args:
            boxes: (N, 4), XYXY in pixels of the image, one for each mask.
            mask_size: side of the result.

        Returns:
            (N, mask_size, mask_size) bool.
        """
        assert len(boxes) == len(self), f"{len(boxes)} != {len(self)}"
        boxes = boxes.to(device=self.device, dtype=torch.float32)
        height, width = self.image_size
        edges = (boxes - 0.5).unbind(1)
        columns = axis_weights(edges[0], edges[2], mask_size, width)
        rows = axis_weights(edges[1], edges[3], mask_size, height)
        result = torch.zeros(len(self), mask_size, mask_size, dtype=torch.bool, device=self.device)
        crops = self._crops()
        for chosen in self.index.unique().tolist():
            (x0, y0, x1, y1), crop = crops[chosen]
            if not crop.numel():
                continue
            these = (self.index == chosen).nonzero().flatten()
            left = axis_matrices(*(part[these] for part in rows), y0, y1 - y0)
            right = axis_matrices(*(part[these] for part in columns), x0, x1 - x0)
            resized = (left @ crop.to(left.dtype)) @ right.transpose(1, 2)
            result[these] = resized >= 0.5
        return result

    @staticmethod
    def cat(masks: Sequence["CroppedMasks"]) -> "CroppedMasks":
        """All masks of several objects over images of one size."""
        assert masks, "there is nothing to concatenate"
        sizes = {mask.image_size for mask in masks}
        assert len(sizes) == 1, f"the masks belong to images of sizes {sizes}"
        before = np.cumsum([0, *(len(mask.windows) for mask in masks[:-1])]).tolist()
        return CroppedMasks(
            torch.cat([mask.pixels for mask in masks]),
            torch.cat([mask.windows for mask in masks]),
            masks[0].image_size,
            torch.cat([mask.index + n for mask, n in zip(masks, before, strict=True)]),
        )
