"""Tables of SpineNet (arXiv 1912.05027) and of its MBConv kin: the graph and the sizes, no layers.

Block i of a table has a level (its maps have stride 2^level) and takes blocks before it, whatever
their levels. Blocks 0 and 1 are the last two groups of the stem. What the rules of the authors'
code would find out at run time is written down here: the one block that is added to another without
resampling (their rule goes by equal shapes, which at tiny sizes coincide by accident), and the
blocks that are outputs.

Sources: SpineNet and SpineNet-MBConv are the published tables of tensorflow/tpu
(models/official/detection/modeling/architecture), block 17 is that of tensorflow/models; 143L is in
code alone. m0 to d4 come from a file that was removed from the authors' repository after four days
(spinenetv2.py of April 2020): no weights and no results of it are known, none are reproduced here,
and that it is the Efficient-SpineNet of arXiv 2010.11426 is inferred, not stated.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["VARIANTS", "Block", "Stem", "Table"]


@dataclass(frozen=True)
class Block:
    """A group of equal blocks, and where its input comes from.

    Args:
        level: of its maps, whose stride is 2^level.
        kind: "residual", "bottleneck" (gives four times its width) or "mbconv".
        inputs: indices of blocks before it, which are resampled and summed; of the stem, ().
        width: filters.
        repeats: blocks in the group.
        add: indices of blocks of the same level and channels, which join the sum as they are.
        output: whether p<level> is made from it.
        unused: whether nothing is made from it, on purpose; it is not built.
    """

    level: int
    kind: str
    inputs: tuple[int, ...] = ()
    width: int = 0
    repeats: int = 1
    add: tuple[int, ...] = ()
    output: bool = False
    unused: bool = False

    @property
    def channels(self) -> int:
        """Of its maps."""
        return 4 * self.width if self.kind == "bottleneck" else self.width


@dataclass(frozen=True)
class Stem:
    """What makes the first two blocks from the image.

    Args:
        kind: "conv7_pool" (7x7 convolution and max pool, stride 4) or "conv3" (3x3, stride 2).
        width: filters of the convolution.
        groups: in a chain after it; the last two are blocks 0 and 1.
    """

    kind: str
    width: int
    groups: tuple[Block, ...]


@dataclass(frozen=True)
class Table:
    """A network.

    Args:
        stem: see :class:`Stem`.
        blocks: numbers 2, 3, ...
        resampling: "alpha_conv", "depthwise_chain" or "space_to_depth", see spinenet_resample.py.
        endpoint_channels: of every output.
        alpha: of "alpha_conv".
        activation: of the published recipe.
        widths: filters by level, for tables that have one width a level; what a block of one's own
            has where it does not say.
    """

    stem: Stem
    blocks: tuple[Block, ...]
    resampling: str
    endpoint_channels: int
    alpha: float = 0.5
    activation: str = "relu"
    widths: Mapping[int, int] = dataclasses.field(default_factory=dict)

    @property
    def all_blocks(self) -> tuple[Block, ...]:
        """By index."""
        return (*self.stem.groups[-2:], *self.blocks)


# level, kind, inputs; 12 to 16 are the outputs, and 17 gives p2
_SPINENET = (
    (2, "bottleneck", (0, 1)),
    (4, "residual", (0, 1)),
    (3, "bottleneck", (2, 3)),
    (4, "bottleneck", (2, 4)),
    (6, "residual", (3, 5)),
    (4, "bottleneck", (3, 5)),
    (5, "residual", (6, 7)),
    (7, "residual", (6, 8)),
    (5, "bottleneck", (8, 9)),
    (5, "bottleneck", (8, 10)),
    (4, "bottleneck", (5, 10)),
    (3, "bottleneck", (4, 10)),
    (5, "bottleneck", (7, 12)),
    (7, "bottleneck", (5, 14)),
    (6, "bottleneck", (12, 14)),
    (2, "bottleneck", (2, 13)),
)
_SPINENET_ADD = {14: (11,)}
_SPINENET_OUTPUTS = (12, 13, 14, 15, 16, 17)
_SPINENET_WIDTHS = {1: 32, 2: 64, 3: 128, 4: 256, 5: 256, 6: 256, 7: 256}

_MBCONV = (
    (2, (0, 1)), (2, (1, 2)), (4, (1, 2)), (3, (3, 4)), (4, (3, 5)), (6, (4, 6)), (4, (4, 6)),
    (5, (7, 8)), (7, (7, 9)), (5, (9, 10)), (5, (9, 11)), (4, (6, 11)), (3, (5, 11)), (5, (8, 13)),
    (7, (6, 15)), (6, (13, 15)),
)  # fmt: skip
_MBCONV_ADD = {15: (12,)}
_MBCONV_OUTPUTS = (13, 14, 15, 16, 17)
_MBCONV_WIDTHS = {0: 8, 1: 16, 2: 24, 3: 40, 4: 80, 5: 112, 6: 112, 7: 112}

# Of the three groups of the stem, then of blocks 2 to 16.
_SCALED_WIDTHS = (16, 24, 16, 16, 104, 48, 120, 40, 120, 168, 96, 192, 136, 104, 40, 136, 136, 40)
_ONCE = (1,) * 18
_REPEATS_D1 = (2, 2, 1, 1, 2, 2, 2, 1, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1)
_REPEATS_D3 = (2, 2, 1, 1, 2, 2, 2, 1, 2, 2, 1, 2, 2, 2, 1, 1, 1, 1)
_REPEATS_D4 = (2, 2, 2, 1, 3, 2, 3, 1, 2, 3, 1, 2, 2, 2, 2, 2, 1, 1)


def _spinenet(
    scale: float, repeats: int, endpoint_channels: int, alpha: float = 0.5, activation: str = "relu"
) -> Table:
    # the fraction of a filter is cut off, as in the authors' code; rounding gives other networks
    widths = {level: int(width * scale) for level, width in _SPINENET_WIDTHS.items()}
    group = Block(2, "bottleneck", width=widths[2], repeats=repeats)
    blocks = tuple(
        Block(
            level, kind, inputs, widths[level], repeats,
            add=_SPINENET_ADD.get(index, ()), output=index in _SPINENET_OUTPUTS,
        )
        for index, (level, kind, inputs) in enumerate(_SPINENET, 2)
    )  # fmt: skip
    return Table(
        Stem("conv7_pool", 64, (group, group)), blocks, "alpha_conv", endpoint_channels, alpha,
        activation, widths,
    )  # fmt: skip


def _mbconv(scale: float, endpoint_channels: int) -> Table:
    widths = {level: int(width * scale) for level, width in _MBCONV_WIDTHS.items()}
    groups = tuple(Block(level, "mbconv", width=widths[level]) for level in (1, 2))
    blocks = tuple(
        Block(
            level, "mbconv", inputs, widths[level],
            add=_MBCONV_ADD.get(index, ()), output=index in _MBCONV_OUTPUTS,
        )
        for index, (level, inputs) in enumerate(_MBCONV, 2)
    )  # fmt: skip
    return Table(
        Stem("conv3", widths[0], groups), blocks, "depthwise_chain", endpoint_channels,
        activation="swish", widths=widths,
    )  # fmt: skip


def _scaled(scale: float, repeats: Sequence[int], endpoint_channels: int) -> Table:
    widths = [_multiple_of_8(width * scale) for width in _SCALED_WIDTHS]
    groups = tuple(
        Block(level, "mbconv", width=widths[i], repeats=repeats[i])
        for i, level in enumerate((1, 2, 2))
    )
    # the graph of SpineNet-49, without block 17
    blocks = tuple(
        Block(
            level, "mbconv", inputs, widths[index + 1], repeats[index + 1],
            add=_SPINENET_ADD.get(index, ()), output=index in _SPINENET_OUTPUTS,
        )
        for index, (level, _, inputs) in enumerate(_SPINENET[:15], 2)
    )  # fmt: skip
    return Table(
        Stem("conv3", _multiple_of_8(8 * scale), groups), blocks, "space_to_depth",
        endpoint_channels, activation="swish",
    )  # fmt: skip


def _multiple_of_8(width: float) -> int:
    """The nearest one, but at least 90 % of `width`."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


VARIANTS: dict[str, Table] = {
    "SpineNet-49S": _spinenet(0.65, 1, 128),
    "SpineNet-49": _spinenet(1.0, 1, 256),
    "SpineNet-96": _spinenet(1.0, 2, 256),
    "SpineNet-143": _spinenet(1.0, 3, 256, alpha=1.0),
    "SpineNet-143L": _spinenet(1.3, 3, 256, alpha=1.0),
    "SpineNet-190": _spinenet(1.3, 4, 512, alpha=1.0, activation="swish"),
    "MBConv-49": _mbconv(1.0, 48),
    "MBConv-49S": _mbconv(0.65, 40),
    "MBConv-49XS": _mbconv(0.6, 24),
    "m0": _scaled(0.4, _ONCE, 24),
    "m1": _scaled(0.5, _ONCE, 40),
    "m2": _scaled(0.8, _ONCE, 64),
    "d0": _scaled(1.0, _ONCE, 64),
    "d1": _scaled(1.0, _REPEATS_D1, 88),
    "d2": _scaled(1.1, _REPEATS_D1, 112),
    "d3": _scaled(1.2, _REPEATS_D3, 160),
    "d4": _scaled(1.4, _REPEATS_D4, 224),
}
