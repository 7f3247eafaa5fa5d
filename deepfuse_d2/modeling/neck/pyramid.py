"""What necks have in common: names and strides of their levels, and extra levels on top."""

import itertools
from collections.abc import Sequence

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

__all__ = ["Pyramid", "check_features"]


class Pyramid(Backbone):
    """Base of a neck: a bottom-up network, one width, levels p2, p3, ... of doubling stride.

    A subclass gives `forward`. Level l has stride 2^l: res4 of stride 16 becomes p4.

    Args:
        bottom_up: network whose features are fused.
        in_features: names of its features, from high to low resolution, each stride twice the one
            before.
        out_channels: channels of every output.
        top_block: makes extra coarse levels, as in detectron2's FPN.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        top_block: nn.Module | None = None,
    ):
        super().__init__()
        shapes = bottom_up.output_shape()
        check_features(in_features, shapes)
        self.bottom_up = bottom_up
        self.top_block = top_block
        self.in_features = tuple(in_features)
        self.levels = tuple(shapes[f].stride.bit_length() - 1 for f in in_features)
        extra = top_block.num_levels if top_block is not None else 0
        first_extra = self.levels[-1] + 1
        self.all_levels = (*self.levels, *range(first_extra, first_extra + extra))
        self._out_features = [f"p{level}" for level in self.all_levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in self.all_levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        """Stride of the coarsest bottom-up feature; detectron2 pads images to multiples of it."""
        return 2 ** self.levels[-1]

    def with_top(self, features: dict[str, Tensor], maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """`maps` (level -> map) with the levels of the top block.

        Args:
            features: of the bottom-up network; the top block may start from one of them ("res5").
            maps: of the levels of `in_features`; or from one of these ("p5").
        """
        if self.top_block is None:
            return maps
        source = self.top_block.in_feature
        source = features[source] if source in features else maps[int(source.removeprefix("p"))]
        extra = self.top_block(source)
        return maps | dict(zip(self.all_levels[len(self.levels) :], extra, strict=True))


def check_features(in_features: Sequence[str], shapes: dict[str, ShapeSpec]) -> None:
    """Raise ValueError unless `in_features` are features of doubling stride among `shapes`."""
    unknown = [f for f in in_features if f not in shapes]
    if unknown or not in_features:
        raise ValueError(
            f"The neck's in_features (MODEL.NECK.IN_FEATURES) {list(in_features)} are not among "
            f"what the bottom-up network gives, {list(shapes)}. For detectron2's ResNet, "
            "MODEL.RESNETS.OUT_FEATURES says what it gives."
        )
    strides = [shapes[f].stride for f in in_features]
    doubling = all(b == 2 * a for a, b in itertools.pairwise(strides))
    if not doubling or strides[0] & (strides[0] - 1):
        raise ValueError(
            f"The neck's in_features {list(in_features)} have strides {strides}; each must be a "
            "power of two and twice the one before, from high to low resolution."
        )
