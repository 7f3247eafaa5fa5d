"""detectron2's frame of stem and stages, with activation checkpointing and errors that explain."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone import ResNet
from torch import Tensor

from ...errors import ConfigError
from ...layers import check_checkpoint_stages, run_stage

__all__ = ["STAGES", "StagedBackbone", "refuse_deformable"]

STAGES = ("res2", "res3", "res4", "res5")


class StagedBackbone(ResNet):
    """A stem, then stages res2 to res5: what detectron2's ResNet is apart from its blocks.

    Freezing, declared shapes and the classifier (``linear``) are detectron2's.

    Args:
        stem: image -> features; its `stride` and `out_channels` are declared as "stem".
        stages: the blocks of res2, res3, ...
        num_classes: also classify, as ImageNet weights do; None for a dense backbone.
        out_features: names to return: "stem", "res2" to "res5", "linear"; None for the last one.
            Stages that no feature needs are not kept.
        freeze_at: 1 freezes the stem, 2 the stem and res2, and so on.
        checkpoint_stages: stages, or "stem", whose activations are computed again in backward.
    """

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: Sequence[Sequence[CNNBlockBase]],
        *,
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
        checkpoint_stages: Sequence[str] = (),
    ):
        if out_features is None:
            out_features = ["linear" if num_classes is not None else STAGES[len(stages) - 1]]
        known = ["stem", *STAGES, *(["linear"] if num_classes is not None else [])]
        if not out_features or not set(out_features) <= set(known):
            raise ConfigError(
                f"out_features (MODEL.RESNETS.OUT_FEATURES) is {list(out_features)}; choose one or "
                f"more of {known}."
            )
        # detectron2 keeps the stages that features need, and does not count "linear" among them
        needed = [*out_features, "res5"] if num_classes is not None else list(out_features)
        super().__init__(stem, stages, num_classes, needed)
        self._out_features = list(out_features)
        self.checkpoint_stages = check_checkpoint_stages(
            checkpoint_stages, ("stem", *self.stage_names)
        )
        self.freeze(freeze_at)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"res2": (N, C_2, H/4, W/4), ...}, sizes rounded up; any H and W."""
        outputs = {}
        x = image
        for name in ("stem", *self.stage_names):
            x = self.run_stage(name, x)
            if name in self._out_features:
                outputs[name] = x
        if self.num_classes is not None:
            x = self.linear(torch.flatten(self.avgpool(x), 1))
            if "linear" in self._out_features:
                outputs["linear"] = x
        return outputs

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        """The result of "stem" for the image, or of a stage for that of the one before."""
        return run_stage(getattr(self, name), x, checkpointed=name in self.checkpoint_stages)


def refuse_deformable(cfg: CfgNode, builder: str) -> None:
    """An error where MODEL.RESNETS asks for deformable convolution, which `builder` has not."""
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE):
        raise ConfigError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE is "
            f"{list(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE)}, but {builder} has no deformable "
            "convolutions. Set it to [False, False, False, False], or take build_resnet_backbone "
            "on a compiled detectron2."
        )
