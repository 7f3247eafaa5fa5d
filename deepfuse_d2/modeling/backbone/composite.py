"""Composite backbones: CBNet (arXiv 1909.03625) and CBNetV2 (arXiv 2107.00420) on any network.

K networks of one kind look at the image one after the other. All but the last are assistants: what
a network has found flows into the stages of the next, and the last, the lead, gives the features.
With x_k^0 the result of the stem of network k, and x_k^l that of its stage l of L,

    x_k^l = stage_k^l( x_k^{l-1} + g_l(x_{k-1}^0, ..., x_{k-1}^L) )

    style   g_l                                                 of
    slc     x_{k-1}^{l-1}, for l > 1                            same level
    ahlc    U(W(x_{k-1}^l))                                     adjacent higher level; CBNet
    allc    D(W(x_{k-1}^{l-2})), for l > 1                      adjacent lower level
    dhlc    sum over i = l..L of U(W_i(x_{k-1}^i))              dense, all higher levels; CBNetV2

W is a 1x1 convolution with a norm and no ReLU, U the nearest neighbour, D a maximum, both to the
size of x_k^{l-1}: maps of odd sizes work, other than in the authors' first code. The assistants'
stem is the lead's too.

`prune` = d leaves out the lead's first d stages: x_k^l = x_{k-1}^l for l <= d. `zero_init` starts
with W = 0: networks with the same weights then are one network, and the composite is it.

`connect_to` = "blocks" is the form of the authors' Swin: g_l is added behind the merging of patches
in front of stage l, comes from the features of the assistant, which have a LayerNorm, and where the
channels of both agree, W is the identity, which zero_init does not make 0.

Where the papers leave a choice: ALLC has no public code, and two readings of its formula are
around; ours takes the level below that of the input. With three networks and `prune`, each is
pruned against the one before it.
"""

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...errors import ConfigError, config_errors
from ...layers.norm import FixedBatchNorm2d, get_norm
from ...layers.resample import Resample
from ..registration import register
from .branches import join_branches
from .by_stages import (
    check_enters_stages,
    check_runs_by_stages,
    drop_norms_of_features,
    drop_stages,
    enter_stage,
    feature_of,
    levels_of,
    run_stage,
)
from .protocol import child_builder

__all__ = ["CONNECT_TO", "STYLES", "CompositeBackbone", "build_composite_backbone"]

# MODEL.COMPOSITE.STYLE
STYLES = ("slc", "ahlc", "allc", "dhlc")
# MODEL.COMPOSITE.CONNECT_TO, and the styles that each takes
CONNECT_TO = {"stage": STYLES, "blocks": ("ahlc", "dhlc")}


class Connection(nn.Module):
    """U(W(x)) or D(W(x)): what one level of a network adds to another level of the next.

    Args:
        source, target: channels and strides of the two levels.
        norm: "FixedBN", or a name for :func:`deepfuse_d2.layers.norm.get_norm`.
        zero_init: start with 0 everywhere: by the scale and shift of the norm, so that their first
            step sets the convolution free; without a norm, by the convolution.
        identity: have no W where the channels of both are the same.
    """

    def __init__(
        self,
        source: ShapeSpec,
        target: ShapeSpec,
        norm: str,
        zero_init: bool,
        identity: bool = False,
    ):
        super().__init__()
        channels = target.channels
        self.resize = Resample(channels, source.stride, target.stride)
        if identity and source.channels == channels:
            self.conv = nn.Identity()
            return
        made = FixedBatchNorm2d(channels) if norm == "FixedBN" else get_norm(norm, channels)
        self.conv = Conv2d(source.channels, channels, 1, bias=made is None, norm=made)
        if zero_init:
            for parameter in (self.conv if made is None else made).parameters(recurse=False):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, C_source, h, w) -> (N, C_target, *size)."""
        return self.resize(self.conv(x), size)


class CompositeBackbone(Backbone):
    """Assistants and a lead; see the top of this file. Gives the features of the lead.

    Example:
        >>> networks = [Res2Net(depth=26, out_features=["res4", "res5"]) for _ in range(2)]
        >>> network = CompositeBackbone(networks, prune=1)
        >>> {name: tuple(f.shape) for name, f in network(torch.rand(1, 3, 65, 64)).items()}
        {'res4': (1, 1024, 5, 4), 'res5': (1, 2048, 3, 2)}
    """

    def __init__(
        self,
        networks: Sequence[Backbone],
        *,
        style: str = "dhlc",
        prune: int = 1,
        zero_init: bool = True,
        share_stem: bool = True,
        norm: str = "FixedBN",
        connect_to: str = "stage",
        runs: int | None = None,
        supervised: bool = False,
        freeze_at: int = 0,
        in_channels: int = 3,
        key: str = "networks",
    ):
        """
        Args:
            networks: of one architecture, the lead last, whose features are given; changed in
                place: what nothing needs is taken out. A single one shares its weights with itself.
            style: one of `STYLES`.
            prune: stages, 0 to all, that the lead takes from the assistant instead of having them.
            zero_init: see :class:`Connection`.
            share_stem: the lead starts from the result of the assistant's stem; False gives it a
                stem of its own, as in the authors' first (Caffe2) code.
            norm: of the connections. "FixedBN", a scale and a shift that learn, with statistics
                that stay 0 and 1, is what both papers' code trains for convolutional networks.
            connect_to: what connections lead to, one of `CONNECT_TO`: the input of a "stage", or
                of its "blocks"; see the top of this file.
            runs: how often a single network runs: K.
            supervised: keep what only losses on the assistants need, in styles that use less.
            freeze_at: all stages of a network, and the connections learn nothing either.
            in_channels: of the image.
            key: that chose the networks, for messages.
        """
        super().__init__()
        first = networks[0]
        check_runs_by_stages(first, key)
        self.shared = len(networks) == 1
        self.runs = runs if self.shared and runs else len(networks)
        self._shapes = dict(first.output_shape())
        levels = levels_of(first)
        last = max(i for i, level in enumerate(levels) if self._shapes.keys() & set(level))
        self.levels, unused = levels[: last + 1], [n for level in levels[last + 1 :] for n in level]
        for network in networks:
            drop_stages(network, unused)
        _check(style, prune, len(self.levels) - 1, norm, zero_init, connect_to)
        self.style, self.prune, self.connect_to = style, prune, connect_to
        to_blocks = connect_to == "blocks"
        if to_blocks:
            check_enters_stages(first, key)
            _check_features(self.levels, self._shapes)
        self.share_stem = share_stem or self.shared or prune > 0
        shapes = shapes_of_levels(first, self.levels, in_channels)

        # whether all features of the assistants can be had, to learn from
        self.is_complete = True
        if not self.shared:
            if not supervised:
                needed, unseen = self.levels[: 1 + self._last_needed()], self.levels[1 + prune :]
                self.is_complete = needed == self.levels
                for assistant in networks[:-1]:
                    rest = self.levels[len(needed) :]
                    drop_stages(assistant, [n for level in rest for n in level])
                    names = [n for level in unseen for n in level]
                    # connections to blocks take the features themselves
                    self.is_complete &= to_blocks or not drop_norms_of_features(assistant, names)
            taken_over = self.levels[0 if self.share_stem else 1 : 1 + prune]
            for network in networks[1:]:
                drop_stages(network, [n for level in taken_over for n in level])
        self.backbones = nn.ModuleList(networks)

        def connections_to(level: int) -> nn.ModuleDict:
            target = shapes[level if to_blocks else level - 1]
            return nn.ModuleDict(
                {
                    self.levels[i][-1]: Connection(
                        shapes[i], target, norm, zero_init, identity=to_blocks
                    )
                    for i in self._sources(level)
                }
            )

        # number of the network that they lead to -> its stage -> the stage that they come from
        self.connections = nn.ModuleDict()
        for k in range(1, self.runs):
            targets = [to for to in range(1 + prune, len(self.levels)) if self._sources(to)]
            made = {self.levels[to][-1]: connections_to(to) for to in targets}
            self.connections[str(k)] = nn.ModuleDict(made)
        if freeze_at >= len(self.levels):
            self.requires_grad_(False)
        # set by supervise_assistants: training gives the assistants' features too
        self.gives_assistants = False

    def children_backbones(self) -> dict[str, Backbone]:
        return {f"backbones.{k}": network for k, network in enumerate(self.backbones)}

    @property
    def size_divisibility(self) -> int:
        # detectron2's Swin misspells the attribute behind its property
        return getattr(self.backbones[0], "size_divisibility", 0)

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self.backbones[0].padding_constraints

    @property
    def settings_of_weights(self) -> dict[str, str]:
        """What decides which weights fit; checked on loading."""
        return {"MODEL.COMPOSITE.CONNECT_TO": self.connect_to}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> the features of the lead.

        In training with supervision also those of the assistants, as ``assistant1.res2``, ...
        """
        branches = self.branches(image, all_levels=self.training and self.gives_assistants)
        if self.training and self.gives_assistants:
            return join_branches(branches)
        return branches[-1]

    def branches(self, image: Tensor, all_levels: bool = True) -> list[dict[str, Tensor]]:
        """(N, 3, H, W) -> the features of every network, the lead's last.

        Args:
            all_levels: also those of assistants that no connection takes.
        """
        results: list[Tensor] = []
        branches: list[dict[str, Tensor]] = []
        for k in range(self.runs):
            network = self.backbones[0 if self.shared else k]
            is_lead = k == self.runs - 1
            count = len(self.levels) if is_lead or all_levels else 1 + self._last_needed()
            before, results, features = results, [], {}
            to_blocks = self.connect_to == "blocks"
            seen = before
            if k and to_blocks:
                seen = [branches[-1].get(names[-1]) for names in self.levels]
            for level in range(count):
                if k and level <= self.prune and (level or self.share_stem):
                    results.append(before[level])
                    for name in self.levels[level]:
                        if name in self._shapes:
                            features[name] = branches[-1][name]
                    continue
                x = image if level == 0 else results[-1]
                is_connected = bool(k and level)
                entered = is_connected and to_blocks
                if entered:
                    x = enter_stage(network, self.levels[level][0], x)
                if is_connected:
                    x = self._plus_connections(k, level, x, seen)
                for name in self.levels[level]:
                    x = run_stage(network, name, x, entered)
                    if name in self._shapes:
                        features[name] = feature_of(network, name, x, image.shape[-2:])
                results.append(x)
            branches.append(features)
        return branches

    def _plus_connections(
        self, k: int, level: int, x: Tensor, before: Sequence[Tensor | None]
    ) -> Tensor:
        """x_k^{level - 1}, the input of a stage (or of its blocks) -> x + g_level(before)."""
        if self.style == "slc":
            return x + before[level - 1] if level > 1 else x
        sources = self._sources(level)
        if not sources:
            return x
        connections = self.connections[str(k)][self.levels[level][-1]]
        size = x.shape[-2:]
        feeds = [connections[self.levels[i][-1]](before[i], size) for i in sources]
        return x + sum(feeds[1:], feeds[0])

    def _sources(self, level: int) -> list[int]:
        """Levels of the network before that flow, through a W, into the input of `level`."""
        if self.style == "ahlc":
            return [level]
        if self.style == "dhlc":
            return list(range(level, len(self.levels)))
        if self.style == "allc" and level > 1:
            return [level - 2]
        return []

    def _last_needed(self) -> int:
        """The last level of an assistant that the next network takes."""
        last = len(self.levels) - 1
        return max({"slc": last - 1, "allc": last - 2}.get(self.style, last), self.prune)


@torch.no_grad()
def shapes_of_levels(
    network: Backbone, levels: Sequence[Sequence[str]], in_channels: int
) -> list[ShapeSpec]:
    """Channels and stride of what every level gives, by one pass of a small image."""
    training = network.training
    network.eval()
    x = torch.zeros(1, in_channels, 64, 64, device=next(network.parameters()).device)
    shapes = []
    for level in levels:
        for name in level:
            x = run_stage(network, name, x)
        # as the network pads images, against the stem, which keeps what it is given
        shapes.append((x.shape[1], x.shape[-1]))
    network.train(training)
    outputs = network.output_shape()
    name, last = next((n, i) for i, level in enumerate(levels) for n in level if n in outputs)
    width = outputs[name].stride * shapes[last][1]
    return [ShapeSpec(channels=channels, stride=width // size) for channels, size in shapes]


def _check_features(levels: Sequence[Sequence[str]], shapes: Mapping[str, ShapeSpec]) -> None:
    missing = [names[-1] for names in levels[1:] if names[-1] not in shapes]
    if missing:
        raise ConfigError(
            'MODEL.COMPOSITE.CONNECT_TO "blocks" takes the features of the assistant, and '
            f"{missing} are not among those of the network; name them in its OUT_FEATURES."
        )


def _check(
    style: str, prune: int, stages: int, norm: str, zero_init: bool, connect_to: str
) -> None:
    if style not in STYLES:
        raise ValueError(
            f'The style "{style}" of a composite backbone (MODEL.COMPOSITE.STYLE) is unknown; '
            f"choose one of {list(STYLES)}."
        )
    if connect_to not in CONNECT_TO or style not in CONNECT_TO[connect_to]:
        raise ValueError(
            f'Connections of a composite backbone are to lead to "{connect_to}" '
            f'(MODEL.COMPOSITE.CONNECT_TO) in the style "{style}"; choose one of '
            f"{list(CONNECT_TO)}, the latter with a style of {list(CONNECT_TO['blocks'])}."
        )
    if not 0 <= prune <= stages:
        raise ValueError(
            f"A composite backbone is to take {prune} stages of the lead from the assistant "
            f"(MODEL.COMPOSITE.PRUNE); the network has {stages}, so choose 0 to {stages}."
        )
    if norm == "FrozenBN" and zero_init and style != "slc":
        raise ValueError(
            "The connections of a composite backbone with norm FrozenBN (MODEL.COMPOSITE.NORM) and "
            "zero_init (MODEL.COMPOSITE.ZERO_INIT) would stay 0 for good: nothing of that norm "
            "learns. Choose FixedBN, whose statistics are fixed too, or zero_init False."
        )


@register(BACKBONE_REGISTRY)
def build_composite_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> CompositeBackbone:
    """MODEL.COMPOSITE.NUM_BACKBONES of MODEL.COMPOSITE.BOTTOM_UP (or MODEL.NECK.BOTTOM_UP)."""
    keys = cfg.MODEL.COMPOSITE
    if keys.NUM_BACKBONES < 2:
        raise ConfigError(
            f"MODEL.COMPOSITE.NUM_BACKBONES is {keys.NUM_BACKBONES}; a composite has 2 or more."
        )
    weights = check_weights(keys.ASSISTANT_WEIGHTS, keys.NUM_BACKBONES - 1)
    builder = child_builder(cfg, "MODEL.COMPOSITE.BOTTOM_UP", build_composite_backbone)
    first = builder(cfg, input_shape)
    check_runs_by_stages(first, builder.__name__)
    others = 0 if keys.SHARE_WEIGHTS else keys.NUM_BACKBONES - 1
    with config_errors():
        return CompositeBackbone(
            [first, *(builder(cfg, input_shape) for _ in range(others))],
            style=keys.STYLE,
            prune=keys.PRUNE,
            zero_init=keys.ZERO_INIT,
            share_stem=keys.SHARE_STEM,
            norm=keys.NORM,
            connect_to=keys.CONNECT_TO,
            runs=keys.NUM_BACKBONES,
            supervised=any(weights),
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            in_channels=input_shape.channels,
            key=builder.__name__,
        )


def check_weights(weights: Sequence[float], assistants: int) -> list[float]:
    """MODEL.COMPOSITE.ASSISTANT_WEIGHTS, one for each assistant; 0 for all where there are none."""
    if not weights:
        return [0.0] * assistants
    if len(weights) != assistants or min(weights) < 0:
        raise ConfigError(
            f"MODEL.COMPOSITE.ASSISTANT_WEIGHTS is {list(weights)}; give a weight of 0 or more for "
            f"each of the {assistants} assistants (NUM_BACKBONES less one), or [] for no losses on "
            "them."
        )
    return list(weights)
