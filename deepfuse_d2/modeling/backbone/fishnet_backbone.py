"""The dense form of FishNet: four of its features as res2..res5.

The paper does not name the tensors its detectors took. The head's are the default: they have seen
the tail, the body and the head, which is the paper's argument for tasks on regions and pixels, and
public users of the weights take the same. The body's maps are there for comparison.

    taps      res2 (stride 4)   res3 (8)         res4 (16)         res5 (32)
    head      f7,  320          f8,  832         f9,  1600         f10, 2112
    body      f7,  320          f6,  512         f5,   768         f4,   512
"""

import logging
from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...errors import ConfigError
from ...layers import check_checkpoint_stages, get_norm
from ..registration import register
from .fishnet import Fish, freeze_module, norm_for_width, variant
from .protocol import Stage

__all__ = ["FishNetBackbone", "build_fishnet_backbone"]

# Feature name -> index of the feature, from high to low resolution.
_TAPS = {
    "head": {"res2": 7, "res3": 8, "res4": 9, "res5": 10},
    "body": {"res2": 7, "res3": 6, "res4": 5, "res5": 4},
}


class FishNetBackbone(Backbone):
    """FishNet without its classifier, as a bottom-up network of detectron2.

    Images may have any size: a map of stride s has ceil(H / s) rows, so `size_divisibility` is 0,
    as for detectron2's ResNet. A neck asks for the multiples it needs.

    Example:
        >>> network = FishNetBackbone(*VARIANTS[150], norm="BN")
        >>> {name: tuple(f.shape) for name, f in network(torch.rand(1, 3, 64, 128)).items()}
        {'res2': (1, 320, 16, 32), 'res3': (1, 832, 8, 16), 'res4': (1, 1600, 4, 8), \
'res5': (1, 2112, 2, 4)}
    """

    why_not_by_stages = "from the body on, a stage takes results of the tail or the body too."

    @configurable
    def __init__(
        self,
        num_blocks: Sequence[int],
        num_transfer_blocks: Sequence[int],
        *,
        in_channels: int = 3,
        width: int = 64,
        norm: str = "FrozenBN",
        taps: str = "head",
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        out_norm_act: str = "",
        freeze_at: int = 0,
        checkpoint_stages: Sequence[str] = (),
    ):
        """
        Args:
            num_blocks, num_transfer_blocks, in_channels, width, norm: see :class:`.fishnet.Fish`.
            taps: "head" or "body": which maps are res2..res5.
            out_features: names of the features to give. Stages that none of them needs are not
                built.
            out_norm_act: a norm of its own and a ReLU for every feature given. "" gives the raw
                sums of the network, as its own classifier gets them: unbounded, not rectified.
            freeze_at: see :meth:`.fishnet.Fish.freeze`.
            checkpoint_stages: names of features whose stages are computed again in backward. A
                stage counts to the first feature computed after it: with the head's taps, tail,
                bridge and body are "res2".
        """
        super().__init__()
        if taps not in _TAPS:
            raise ConfigError(f'MODEL.FISHNET.TAPS = "{taps}" is unknown; choose "head" or "body".')
        tapped = _TAPS[taps]
        unknown = [name for name in out_features if name not in tapped]
        if unknown or not out_features:
            raise ConfigError(
                f"MODEL.FISHNET.OUT_FEATURES is {list(out_features)}; give one or more of "
                f"{list(tapped)}."
            )
        self.taps = {name: index for name, index in tapped.items() if name in out_features}
        self.fish = Fish(
            num_blocks,
            num_transfer_blocks,
            in_channels=in_channels,
            width=width,
            norm=norm,
            last=max(self.taps.values()),
        )
        # stage i makes the feature i + 1
        owners = [
            min((name for name in tapped if tapped[name] > i), key=tapped.get)
            for i in range(len(self.fish.stages))
        ]
        self.checkpoint_stages = check_checkpoint_stages(
            checkpoint_stages, [name for name in tapped if name in owners]
        )
        self._owners = tuple(owners)
        self.checkpointed = frozenset(
            i for i, owner in enumerate(owners) if owner in self.checkpoint_stages
        )

        self._out_features = list(self.taps)
        self._out_feature_channels = {n: self.fish.channels[i] for n, i in self.taps.items()}
        self._out_feature_strides = {n: self.fish.strides[i] for n, i in self.taps.items()}
        self.out_norms = None
        if out_norm_act:
            out_norm = norm_for_width(out_norm_act, width)
            self.out_norms = nn.ModuleDict(
                {n: get_norm(out_norm, c) for n, c in self._out_feature_channels.items()}
            )
        self.freeze(freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        fishnet = cfg.MODEL.FISHNET
        _warn_of_wrong_gradients(cfg)
        blocks, transfer = fishnet.NUM_BLOCKS, fishnet.NUM_TRANSFER_BLOCKS
        if not (blocks and transfer):
            published = variant(fishnet.DEPTH)
            blocks, transfer = blocks or published[0], transfer or published[1]
        return {
            "num_blocks": blocks,
            "num_transfer_blocks": transfer,
            "in_channels": input_shape.channels,
            "width": fishnet.WIDTH,
            "norm": fishnet.NORM,
            "taps": fishnet.TAPS,
            "out_features": fishnet.OUT_FEATURES,
            "out_norm_act": fishnet.OUT_NORM_ACT,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "checkpoint_stages": cfg.DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES,
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"res2": (N, C, ceil(H/4), ceil(W/4)), ...}, high to low resolution."""
        features = self.fish(image, self.checkpointed)
        outputs = {name: features[index] for name, index in self.taps.items()}
        if self.out_norms is None:
            return outputs
        return {name: F.relu_(norm(outputs[name])) for name, norm in self.out_norms.items()}

    def stages(self) -> list[Stage]:
        """The network's own ten, each a depth, named by the feature they are checkpointed with.

        Norms of the features learn like the last of them.
        """
        own = [(stage,) for stage in self.fish.stages]
        if self.out_norms is not None:
            own[-1] += (self.out_norms,)
        named = zip(self._owners, own, strict=True)
        rest = [Stage(name, depth, parts) for depth, (name, parts) in enumerate(named, 2)]
        return [Stage("stem", 1, (self.fish.stem,)), *rest]

    def freeze(self, freeze_at: int = 0) -> "FishNetBackbone":
        """Fix the stem (1), also the tail's three stages (2..4), everything (5); returns itself."""
        self.fish.freeze(freeze_at)
        if freeze_at >= 5 and self.out_norms is not None:
            freeze_module(self.out_norms)
        return self


@register(BACKBONE_REGISTRY)
def build_fishnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FishNetBackbone:
    """The FishNet of MODEL.FISHNET."""
    return FishNetBackbone(cfg, input_shape)


def _warn_of_wrong_gradients(cfg: CfgNode) -> None:
    """torch 2.14 (oneDNN 3.12) gives wrong or infinite gradients for dilated convolutions with
    channels last in bfloat16 on a CPU, unless their channels are multiples of 16. Those of stages 5
    and 6 have 3/2 of the width and the width."""
    on_cpu = cfg.MODEL.DEVICE == "cpu" and cfg.DEEPFUSE_D2.MODEL.CHANNELS_LAST
    bfloat16 = cfg.SOLVER.AMP.ENABLED and cfg.DEEPFUSE_D2.SOLVER.AMP.DTYPE == "bfloat16"
    if on_cpu and bfloat16 and cfg.MODEL.FISHNET.WIDTH % 32:
        logging.getLogger(__name__).warning(
            "MODEL.FISHNET.WIDTH %d cannot be trained in bfloat16 with channels last on a CPU: "
            "torch gives wrong gradients for its dilated convolutions. Choose a multiple of 32, or "
            "set DEEPFUSE_D2.MODEL.CHANNELS_LAST or SOLVER.AMP.ENABLED to False.",
            cfg.MODEL.FISHNET.WIDTH,
        )
