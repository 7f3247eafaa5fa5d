"""Large-scale jitter: an image resized to fit a box of 0.1 to 2 times a size, cut to that size.

The augmentation of SpineNet (arXiv 1912.05027) and of "Simple Copy-Paste" (arXiv 2012.07177), for
instances and for labels of pixels. As in the authors' code, the factor is uniform and the part that
is cut out is anywhere. Smaller images are not padded here: a batch is, by the meta-architecture.
"""

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from ...errors import ConfigError

__all__ = ["LargeScaleJitter", "build_large_scale_jitter"]


class LargeScaleJitter(T.Augmentation):
    """Resize into a box of `size` times a drawn factor, then cut out a part of at most `size`.

    Args:
        low, high: the factor is uniform in [low, high].
        size: (height, width) in pixels.
    """

    def __init__(self, low: float, high: float, size: tuple[int, int]):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        factor = self._rand_range(self.low, self.high)
        scale = factor * min(self.size[0] / height, self.size[1] / width)
        new = [max(1, round(side * scale)) for side in (height, width)]
        kept = [min(side, limit) for side, limit in zip(new, self.size, strict=True)]
        top, left = (
            round(self._rand_range(0.0, 1.0) * (side - part))
            for side, part in zip(new, kept, strict=True)
        )
        return T.TransformList(
            [
                T.ResizeTransform(height, width, *new),
                T.CropTransform(left, top, kept[1], kept[0], new[1], new[0]),
            ]
        )


def build_large_scale_jitter(cfg: CfgNode) -> LargeScaleJitter | None:
    """What DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER asks for; None where it is off.

    Raises: ConfigError: a value is not allowed, or other keys resize or crop as well.
    """
    keys = cfg.DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER
    if not keys.ENABLED:
        return None
    if len(keys.SCALE) != 2 or not 0 < keys.SCALE[0] <= keys.SCALE[1]:
        raise ConfigError(
            f"DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER.SCALE is {list(keys.SCALE)}; give the smallest "
            "and the largest factor, both above 0, such as [0.1, 2.0]."
        )
    if len(keys.SIZE) != 2 or min(keys.SIZE) < 1:
        raise ConfigError(
            f"DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER.SIZE is {list(keys.SIZE)}; give height and "
            "width in pixels, such as [1024, 1024]."
        )
    if cfg.INPUT.CROP.ENABLED or tuple(cfg.DEEPFUSE_D2.INPUT.SCALE_JITTER) != (1.0, 1.0):
        raise ConfigError(
            "DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER resizes and crops; set INPUT.CROP.ENABLED False "
            "and DEEPFUSE_D2.INPUT.SCALE_JITTER [1.0, 1.0] with it."
        )
    return LargeScaleJitter(*keys.SCALE, tuple(keys.SIZE))
