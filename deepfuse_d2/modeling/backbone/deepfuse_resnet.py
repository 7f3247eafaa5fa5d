"""detectron2's ResNet (arXiv 1512.03385) and ResNeXt with DeepFuse after chosen stages.

"low_to_high" fuses the maps of all earlier stages into the output of a stage, before the next stage
takes it: detail reaches the deep stages. "high_to_low" fuses the maps of all later stages into what
a stage returns, after the network has run: meaning reaches the fine maps. "both" does the one, then
the other.

Every insertion is ``x + scale * project(deepen(merge(...)))``, on a fraction of the stage's
channels. With `zero_init` the scales start at 0, and the network gives what the plain one gives,
bit for bit. Stem and stages are built by detectron2 and keep their parameter names, so an ImageNet
checkpoint fits, and everything that MODEL.RESNETS says holds.
"""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone import build_resnet_backbone
from torch import Tensor, nn

from ...config.keys.deepfuse import fuse_settings
from ...errors import config_errors
from ...layers import DeepFuse, FuseSettings, check_checkpoint_stages, run_stage
from ..registration import register
from .protocol import Stage

__all__ = ["BACKBONE_DIRECTIONS", "DeepFuseResNet", "build_deepfuse_resnet_backbone"]

# MODEL.DEEPFUSE.BACKBONE_DIRECTION
BACKBONE_DIRECTIONS = ("low_to_high", "high_to_low", "both")


class DeepFuseResNet(ResNet):
    """A :class:`detectron2.modeling.ResNet` with DeepFuse after chosen stages.

    `freeze` is detectron2's: it freezes the stem and stages. The insertions, which no checkpoint of
    a plain backbone holds, always learn.
    """

    why_not_by_stages = "DeepFuse takes the results of several stages at once."

    def __init__(
        self,
        stem: nn.Module,
        stages: list[list[nn.Module]],
        out_features: list[str],
        freeze_at: int = 0,
        *,
        settings: FuseSettings = FuseSettings(),
        fuse_stages: Sequence[str] = ("res3", "res4", "res5"),
        direction: str = "low_to_high",
        reduction: int = 4,
        checkpoint_stages: Sequence[str] = (),
    ):
        """
        Args:
            stem, stages, out_features, freeze_at: see :class:`detectron2.modeling.ResNet`. Stages
                after the last of `out_features` are left out, as there.
            settings: of every fusion.
            fuse_stages: names of the stages that others are fused into.
            direction: "low_to_high", "high_to_low" or "both".
            reduction: a stage of C channels is fused on ``C // reduction`` channels.
            checkpoint_stages: stages whose activations are computed again in backward.
        """
        super().__init__(stem, stages, out_features=out_features, freeze_at=freeze_at)
        self.checkpoint_stages = check_checkpoint_stages(checkpoint_stages, self.stage_names)
        _check_stages(fuse_stages, direction, self.stage_names, out_features)

        if reduction < 1:
            raise ValueError(
                f"The DeepFuse reduction (MODEL.DEEPFUSE.BACKBONE_REDUCTION) is {reduction}; "
                "it must be 1 or more."
            )

        def insertion(stage: str, sources: Sequence[str]) -> DeepFuse:
            maps = [stage, *sources]
            channels = [self._out_feature_channels[name] for name in maps]
            if channels[0] % reduction:
                raise ValueError(
                    f"The DeepFuse reduction (MODEL.DEEPFUSE.BACKBONE_REDUCTION) of {reduction} "
                    f"does not divide the {channels[0]} channels of {stage}."
                )
            return DeepFuse(
                channels,
                channels[0],
                settings,
                strides=[self._out_feature_strides[name] for name in maps],
                align=True,
                skip="target",
                width=channels[0] // reduction,
            )

        # Stage -> the stages fused into it. With "both", the first stage takes from later ones
        # only, the last from earlier ones only.
        self._earlier = {
            name: self.stage_names[:i]
            for i, name in enumerate(self.stage_names)
            if name in fuse_stages and direction != "high_to_low" and i > 0
        }
        self._later = {
            name: self.stage_names[i + 1 :]
            for i, name in enumerate(self.stage_names)
            if name in fuse_stages and direction != "low_to_high" and name != self.stage_names[-1]
        }
        self.fuse_low_to_high = nn.ModuleDict(
            {name: insertion(name, sources) for name, sources in self._earlier.items()}
        )
        self.fuse_high_to_low = nn.ModuleDict(
            {name: insertion(name, sources) for name, sources in self._later.items()}
        )

    def stages(self) -> list[Stage]:
        """Stem and stages of the ResNet, each with what is fused into it."""
        inserted = (self.fuse_low_to_high, self.fuse_high_to_low)
        rest = [
            Stage(
                name,
                depth,
                (getattr(self, name), *(fuse[name] for fuse in inserted if name in fuse)),
            )
            for depth, name in enumerate(self.stage_names, 2)
        ]
        return [Stage("stem", 1, (self.stem,)), *rest]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"res2": (N, C, H/4, W/4), ...}, the features asked for."""
        x = self.stem(x)
        maps = {"stem": x}
        for name in self.stage_names:
            x = run_stage(getattr(self, name), x, checkpointed=name in self.checkpoint_stages)
            if name in self._earlier:
                sources = [maps[source] for source in self._earlier[name]]
                x = self.fuse_low_to_high[name](x, sources)
            maps[name] = x
        # from the coarsest down, so that a stage gets what the later ones have got already
        for name in reversed(self._later):
            sources = [maps[source] for source in self._later[name]]
            maps[name] = self.fuse_high_to_low[name](maps[name], sources)
        return {name: feature for name, feature in maps.items() if name in self._out_features}


def _check_stages(
    fuse_stages: Sequence[str],
    direction: str,
    known: Sequence[str],
    out_features: Sequence[str],
) -> None:
    if direction not in BACKBONE_DIRECTIONS:
        raise ValueError(
            f'The direction "{direction}" of DeepFuse in a backbone '
            "(MODEL.DEEPFUSE.BACKBONE_DIRECTION) is unknown; "
            f"choose one of {list(BACKBONE_DIRECTIONS)}."
        )
    given = f"The stages {list(fuse_stages)} for DeepFuse (MODEL.DEEPFUSE.BACKBONE_STAGES)"
    if not fuse_stages:
        raise ValueError(
            f"{given} name none; choose among {list(known)}, or take the plain "
            '"build_resnet_backbone".'
        )
    unknown = [name for name in fuse_stages if name not in known]
    if unknown:
        raise ValueError(
            f"{given} name {unknown}, which this network does not have: it ends with "
            f"{known[-1]}, the last of MODEL.RESNETS.OUT_FEATURES. Choose among {list(known)}."
        )
    if direction == "low_to_high" and known[0] in fuse_stages:
        raise ValueError(
            f'{given} name {known[0]}, but "low_to_high" fuses earlier stages and it has none; '
            'leave it out, or choose "high_to_low" or "both".'
        )
    if direction == "high_to_low" and known[-1] in fuse_stages:
        raise ValueError(
            f'{given} name {known[-1]}, but "high_to_low" fuses later stages and it has none; '
            'leave it out, or choose "low_to_high" or "both".'
        )
    unused = [name for name in fuse_stages if name not in out_features]
    if direction != "low_to_high" and unused:
        raise ValueError(
            f'{given} name {unused}, whose map "{direction}" fuses for output, but the output is '
            f"{list(out_features)} (MODEL.RESNETS.OUT_FEATURES); leave them out, or add them there."
        )


@register(BACKBONE_REGISTRY)
def build_deepfuse_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DeepFuseResNet:
    """detectron2's ResNet as MODEL.RESNETS says, with MODEL.DEEPFUSE after BACKBONE_STAGES."""
    plain = build_resnet_backbone(cfg, input_shape)
    deepfuse = cfg.MODEL.DEEPFUSE
    with config_errors():
        return DeepFuseResNet(
            plain.stem,
            [list(stage) for stage in plain.stages],
            cfg.MODEL.RESNETS.OUT_FEATURES,
            cfg.MODEL.BACKBONE.FREEZE_AT,
            settings=fuse_settings(cfg),
            fuse_stages=deepfuse.BACKBONE_STAGES,
            direction=deepfuse.BACKBONE_DIRECTION,
            reduction=deepfuse.BACKBONE_REDUCTION,
            checkpoint_stages=cfg.DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES,
        )
