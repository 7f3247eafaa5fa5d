"""SpineNet (arXiv 1912.05027): a backbone of permuted scales, which gives p3 to p7 without a neck.

A stem makes two maps of stride 4. Each further block takes maps of blocks before it, of any level,
resamples and sums them, and goes on from there; five of the blocks are the outputs. One class runs
every table of spinenet_tables.py (SpineNet, SpineNet-MBConv, m0 to d4), and tables of one's own.

Where the published codes differ, this follows the authors' (tensorflow/tpu): endpoints have an
activation, which the PyTorch ports leave out (`endpoint_activation` False for their weights); max
pools pad on both sides as in those ports, unless `Style.same_pooling`, as TensorFlow's weights
expect.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...errors import ConfigError
from ...layers import check_checkpoint_stages, run_stage
from ..registration import register
from .protocol import Stage, freeze_stages
from .spinenet_blocks import Style, conv_norm, make_group
from .spinenet_graph import ancestors, check_table, output_blocks, with_own_blocks
from .spinenet_resample import make_resample
from .spinenet_tables import VARIANTS, Block, Stem, Table

__all__ = ["SpineNet", "build_spinenet_backbone"]


class SpineNetStem(CNNBlockBase):
    """The first convolution, a max pool for "conv7_pool", and the groups before block 0."""

    def __init__(self, stem: Stem, in_channels: int, style: Style):
        is_large = stem.kind == "conv7_pool"
        before = stem.groups[:-2]
        channels = before[-1].channels if before else stem.width
        super().__init__(in_channels, channels, 4 if is_large else 2)
        self.activate = style.activate
        self.max_pool = style.max_pool if is_large else None
        self.conv1 = conv_norm(in_channels, stem.width, 7 if is_large else 3, style, stride=2)
        width, groups = stem.width, []
        for block in before:
            groups.append(make_group(block, width, style))
            width = block.channels
        self.groups = nn.Sequential(*groups)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H / stride, W / stride)."""
        x = self.activate(self.conv1(image))
        if self.max_pool is not None:
            x = self.max_pool(x, 2)
        return self.groups(x)


class PermutedBlock(nn.Module):
    """``group(activate(sum of resampled maps + sum of maps that are added as they are))``."""

    def __init__(
        self,
        block: Block,
        sources: Sequence[Block],
        table: Table,
        style: Style,
        drop_path: float,
    ):
        super().__init__()
        self.activate = style.activate
        self.resamples = nn.ModuleList(
            make_resample(table.resampling, source, block, table.alpha, style) for source in sources
        )
        self.group = make_group(block, block.channels, style, drop_path=drop_path)

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps of `sources`, then those to add, -> (N, C, H / 2^level, W / 2^level)."""
        resampled, added = maps[: len(self.resamples)], maps[len(self.resamples) :]
        parts = [resample(x) for resample, x in zip(self.resamples, resampled, strict=True)]
        x = parts[0]
        for part in (*parts[1:], *added):
            x = x + part
        return self.group(self.activate(x))


class SpineNet(Backbone):
    """Image -> {"p3": ..., "p7": ...}, of one width; height and width must be multiples of 128.

    Stages are "stem", "block0", "block1", ... in the order of the table, and "endpoints". Blocks
    that no output needs are not built.

    Example:
        >>> network = SpineNet(VARIANTS["SpineNet-49S"])
        >>> {name: tuple(p.shape) for name, p in network(torch.rand(1, 3, 128, 256)).items()}
        {'p3': (1, 128, 16, 32), 'p4': (1, 128, 8, 16), ..., 'p7': (1, 128, 1, 2)}
    """

    @configurable
    def __init__(
        self,
        table: Table,
        *,
        out_features: Sequence[str] = ("p3", "p4", "p5", "p6", "p7"),
        style: Style | None = None,
        drop_path: float = 0.0,
        endpoint_channels: int = 0,
        endpoint_activation: bool = True,
        in_channels: int = 3,
        freeze_at: int = 0,
        checkpoint_stages: Sequence[str] = (),
        square_size: int = 0,
    ):
        """
        Args:
            table: one of :data:`VARIANTS`, or one's own.
            out_features: "p<level>" of outputs of the table.
            style: what layers have in common; None takes the table's activation and batch norms.
            drop_path: probability, in [0, 1), of the last block to be dropped for a sample in
                training; it rises from block to block.
            endpoint_channels: of every output; 0 takes the table's.
            endpoint_activation: False for weights of the PyTorch ports.
            in_channels: of the image.
            freeze_at: 1 freezes the stem, 2 also block 0, and so on; see `stage_names`.
            checkpoint_stages: stages whose activations are computed again in backward.
            square_size: pad all images to squares of this side; 0 to multiples alone.
        """
        super().__init__()
        check_table(table)
        if not 0 <= drop_path < 1:
            raise ConfigError(f"MODEL.SPINENET.DROP_PATH is {drop_path}; it must be in [0, 1).")
        style = Style(activation=table.activation) if style is None else style
        outputs = output_blocks(table, out_features)
        self.stem = SpineNetStem(table.stem, in_channels, style)
        self._add_blocks(table, ancestors(table, list(outputs.values())), style, drop_path)

        channels = endpoint_channels or table.endpoint_channels
        blocks = table.all_blocks
        self.endpoints = nn.ModuleDict(
            {
                name: conv_norm(blocks[index].channels, channels, 1, style)
                for name, index in outputs.items()
            }
        )
        self.activate = style.activate
        self.endpoint_activation = endpoint_activation
        self.same_pooling = style.same_pooling
        self.square_size = square_size
        self._output_names = {index: name for name, index in outputs.items()}
        self._shapes = {
            name: ShapeSpec(channels=channels, stride=2 ** blocks[index].level)
            for name, index in outputs.items()
        }
        self._divides_by = 2 ** max(blocks[index].level for index in self._sources)
        self.stage_names = ("stem", *(f"block{index}" for index in self._sources), "endpoints")
        self.checkpoint_stages = check_checkpoint_stages(checkpoint_stages, self.stage_names)
        freeze_stages(self, freeze_at)

    def _add_blocks(
        self, table: Table, indices: Sequence[int], style: Style, drop_path: float
    ) -> None:
        """Modules "block<index>", and what each of them takes."""
        blocks = table.all_blocks
        # index -> indices of what it takes; block 0 takes the stem
        self._sources: dict[int, tuple[int, ...]] = {}
        channels, stride = self.stem.out_channels, self.stem.stride
        permuted = [index for index in indices if index > 1]
        for index in indices:
            block = blocks[index]
            if index > 1:
                # the deeper, the more is dropped
                rate = drop_path * (permuted.index(index) + 1) / len(permuted)
                sources = [blocks[i] for i in block.inputs]
                module: nn.Module = PermutedBlock(block, sources, table, style, rate)
            else:
                module = make_group(block, channels, style, stride=2**block.level // stride)
                channels, stride = block.channels, 2**block.level
            self.add_module(f"block{index}", module)
            self._sources[index] = (*block.inputs, *block.add) if index > 1 else (index - 1,)
        # the last block that takes a map; after it, the map may be forgotten
        self._last_use = {i: index for index, taken in self._sources.items() for i in taken}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        keys = cfg.MODEL.SPINENET
        table = _table(keys.NAME, keys.BLOCKS)
        _check_square(cfg)
        return {
            "table": table,
            "out_features": keys.OUT_FEATURES,
            "style": Style(
                norm=keys.NORM,
                eps=keys.NORM_EPS,
                momentum=keys.NORM_MOMENTUM,
                activation=keys.ACTIVATION or table.activation,
                same_pooling=keys.SAME_POOLING,
                drop_block=keys.DROP_BLOCK,
                drop_block_size=keys.DROP_BLOCK_SIZE,
            ),
            "drop_path": keys.DROP_PATH,
            "endpoint_channels": keys.ENDPOINT_CHANNELS,
            "endpoint_activation": keys.ENDPOINT_ACTIVATION,
            "in_channels": input_shape.channels,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "checkpoint_stages": cfg.DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES,
            "square_size": keys.SQUARE_SIZE,
        }

    @property
    def size_divisibility(self) -> int:
        """Stride of the coarsest block, 128 for all published networks."""
        return self._divides_by

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self._divides_by, "square_size": self.square_size}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    @property
    def settings_of_weights(self) -> dict[str, bool]:
        """What weights were trained with and their shapes do not tell; checked on loading."""
        return {
            "MODEL.SPINENET.ENDPOINT_ACTIVATION": self.endpoint_activation,
            "MODEL.SPINENET.SAME_POOLING": self.same_pooling,
        }

    def stages(self) -> list[Stage]:
        return [
            Stage(name, depth, (getattr(self, name),))
            for depth, name in enumerate(self.stage_names, 1)
        ]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"p3": (N, C, H/8, W/8), ..., "p7": (N, C, H/128, W/128)}.

        H and W are multiples of :attr:`size_divisibility`.
        """
        self._check_size(image)
        maps = {-1: self._run("stem", image)}
        outputs: dict[str, Tensor] = {}
        for index, sources in self._sources.items():
            maps[index] = self._run(f"block{index}", *(maps[i] for i in sources))
            if index in self._output_names:
                outputs[self._output_names[index]] = maps[index]
            for i in sources:
                if self._last_use[i] == index:
                    del maps[i]
        return {name: self._endpoint(name, outputs[name]) for name in self._shapes}

    def _run(self, name: str, *inputs: Tensor) -> Tensor:
        return run_stage(getattr(self, name), *inputs, checkpointed=name in self.checkpoint_stages)

    def _endpoint(self, name: str, x: Tensor) -> Tensor:
        x = run_stage(self.endpoints[name], x, checkpointed="endpoints" in self.checkpoint_stages)
        return self.activate(x) if self.endpoint_activation else x

    def _check_size(self, image: Tensor) -> None:
        # graphs are made for whole families of sizes; whoever runs them pads
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        height, width = image.shape[-2:]
        if height % self._divides_by or width % self._divides_by:
            raise ValueError(
                f"SpineNet got an image of {height} x {width}; height and width must be multiples "
                f"of {self._divides_by}, because maps of all levels are brought to each other's "
                "sizes. Detectron2's meta-architectures pad by size_divisibility; pad before you "
                "call the backbone itself."
            )


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    if name not in VARIANTS:
        raise ConfigError(
            f'MODEL.SPINENET.NAME = "{name}" is unknown; choose one of '
            + ", ".join(f'"{known}"' for known in VARIANTS)
        )
    return with_own_blocks(VARIANTS[name], rows) if rows else VARIANTS[name]


def _check_square(cfg: CfgNode) -> None:
    """Images that do not fit into the square would be cut off in silence."""
    side, jitter = cfg.MODEL.SPINENET.SQUARE_SIZE, cfg.DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER
    in_training = max(jitter.SIZE) if jitter.ENABLED else cfg.INPUT.MAX_SIZE_TRAIN
    largest = max(cfg.INPUT.MAX_SIZE_TEST, in_training)
    if side and largest > side:
        raise ConfigError(
            f"MODEL.SPINENET.SQUARE_SIZE is {side}, and images may have sides of up to {largest} "
            "(INPUT.MAX_SIZE_TEST, and MAX_SIZE_TRAIN or the SIZE of large-scale jitter); give a "
            "square that holds them, or 0."
        )


@register(BACKBONE_REGISTRY)
def build_spinenet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SpineNet:
    """SpineNet from MODEL.SPINENET."""
    return SpineNet(cfg, input_shape)
