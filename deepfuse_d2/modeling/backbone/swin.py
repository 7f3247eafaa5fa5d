"""Swin Transformer (arXiv 2103.14030) from a yaml: detectron2's, with the features res2 to res5.

detectron2 has the network, by its lazy configs alone. Here it goes where any other goes: below a
neck, in a composite (arXiv 2107.00420), frozen, checkpointed and learning by stages. Its names are
those of the authors' files, which load as they are.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.swin import SwinTransformer
from torch import Tensor

from ...errors import ConfigError
from ..registration import register
from .protocol import freeze_stages
from .published import published_or_own

__all__ = ["VARIANTS", "Swin", "build_swin_backbone"]

# DEEPFUSE_D2.MODEL.SWIN.NAME: what differs from Swin-T in table 7 of the paper
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "swin_tiny": {},
    "swin_small": {"depths": [2, 2, 18, 2]},
    "swin_base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
    "swin_large": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48]},
}
_KEYS = {
    name: f"DEEPFUSE_D2.MODEL.SWIN.{name.upper()}"
    for name in ("embed_dim", "depths", "num_heads", "window_size")
}


class Swin(SwinTransformer):
    """detectron2's Swin Transformer; (N, 3, H, W) -> {"res2": (N, C, H/4, W/4), ...}.

    Feature res(2 + i) has ``embed_dim * 2^i`` channels and goes through a LayerNorm of its own.
    Images of any size work: maps are padded to whole windows.
    """

    @configurable
    def __init__(
        self,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        drop_path: float = 0.2,
        in_channels: int = 3,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        freeze_at: int = 0,
    ):
        """
        Args:
            embed_dim: channels of res2.
            depths: blocks of each of the four stages.
            num_heads: heads of the attention of each stage; they divide its channels.
            window_size: side of the windows that attend to themselves, in positions.
            drop_path: probability, in [0, 1), of dropping the last block of a sample in training;
                the others in proportion to their place.
            in_channels: of the image.
            out_features: some of "res2" to "res5"; stages behind the last are not built.
            freeze_at: stages that do not learn; 1 is the embedding of patches alone.

        Raises: ConfigError: a stage has channels that its heads do not divide, or none is named.
        """
        known = [f"res{number}" for number in range(2, 2 + len(depths))]
        unknown = [name for name in out_features if name not in known]
        if unknown or not out_features:
            raise ConfigError(
                f"DEEPFUSE_D2.MODEL.SWIN.OUT_FEATURES is {list(out_features)}; name some of "
                f"{known}."
            )
        indices = tuple(index for index, name in enumerate(known) if name in out_features)
        stages = indices[-1] + 1
        for index, heads in enumerate(num_heads[:stages]):
            if (embed_dim * 2**index) % heads:
                raise ConfigError(
                    f"{known[index]} of a Swin Transformer has {embed_dim * 2**index} channels, "
                    f"which {heads} heads do not divide; change DEEPFUSE_D2.MODEL.SWIN.EMBED_DIM "
                    "or NUM_HEADS."
                )
        # detectron2 reads its rates of stochastic depth off a tensor, which has none on "meta"
        on_meta = torch.empty(0).device.type == "meta"  # of `with torch.device`, too
        with torch.device("cpu") if on_meta else contextlib.nullcontext():
            super().__init__(
                embed_dim=embed_dim,
                depths=tuple(depths[:stages]),
                num_heads=tuple(num_heads[:stages]),
                window_size=window_size,
                drop_path_rate=drop_path,
                in_chans=in_channels,
                out_indices=indices,
            )
        if on_meta:
            self.to("meta")
        self.stage_names = known[:stages]
        self._out_features = [known[index] for index in indices]
        self._out_feature_channels = {known[i]: embed_dim * 2**i for i in indices}
        self._out_feature_strides = {known[i]: 4 * 2**i for i in indices}
        freeze_stages(self, freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        keys = cfg.DEEPFUSE_D2.MODEL.SWIN
        own = published_or_own(cls, cfg, "DEEPFUSE_D2.MODEL.SWIN.NAME", VARIANTS, _KEYS)
        return {
            **own,
            "drop_path": keys.DROP_PATH,
            "out_features": keys.OUT_FEATURES,
            "in_channels": input_shape.channels,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    @property
    def size_divisibility(self) -> int:
        # detectron2's property asks for an attribute that its constructor misspells
        return 0

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> features by name, of ceil(H / stride) rows."""
        return {self.stage_names[int(name[1:])]: x for name, x in super().forward(image).items()}


@register(BACKBONE_REGISTRY)
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Swin:
    """The network that DEEPFUSE_D2.MODEL.SWIN describes."""
    return Swin(cfg, input_shape)
