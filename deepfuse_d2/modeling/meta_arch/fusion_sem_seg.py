"""FusionSemanticSegmentor: any backbone with any semantic head, its losses and its inference.

detectron2's SemanticSegmentor leaves loss and resizing to each head. Here a head only maps features
to logits, so that heads are compared under the same losses and the same inference.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    build_backbone,
)
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.structures import ImageList
from torch import Tensor, nn

from ...config.look_up import look_up
from ...errors import ConfigError, config_errors
from ..backbone.branches import split_branches, weighed, with_weights
from ..registration import register
from ..sem_seg.losses import SemSegLosses, image_level_loss
from .dense_inference import DenseInference, to_size

__all__ = ["FusionSemanticSegmentor"]


@register(META_ARCH_REGISTRY)
class FusionSemanticSegmentor(nn.Module):
    """Image -> backbone, with a neck or without -> head -> a class for each pixel.

    The head is called as ``head(features) -> {"sem_seg": (N, K, h, w) logits, ...}``. Outputs under
    other names are auxiliary and come in training only; `head.auxiliary_weights` says what the loss
    of each counts. One of two axes, (N, K), says which classes an image holds. detectron2's
    SemSegFPNHead serves too.

    Images of a batch are padded at the right and the bottom, after normalisation with zeros, to a
    common size that the network can divide; padding has no label and enters no loss. Losses and
    resizing are computed in float32, under autocast as well.
    """

    # see assistants.py
    assistant_weights: tuple[float, ...] = ()
    # see protocol.py
    mapper_name = "sem_seg"
    predicts = ("sem_seg",)

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        losses: SemSegLosses,
        inference: DenseInference,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        ignore_value: int = 255,
        loss_weight: float = 1.0,
        size_divisibility: int = 1,
    ):
        """
        Args:
            backbone: image -> dict of features; with a neck or without.
            sem_seg_head: dict of features -> dict of logits.
            losses: what is learned from each map of logits.
            inference: how logits become the result.
            pixel_mean, pixel_std: of each channel of the image.
            ignore_value: label of pixels without a class.
            loss_weight: of the main output; auxiliary outputs have the weights of the head.
            size_divisibility: height and width of a padded batch are multiples of it, and of what
                the backbone asks for.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.losses = losses
        self.inference = inference
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        constraints = backbone.padding_constraints
        self.size_divisibility = math.lcm(
            size_divisibility,
            max(backbone.size_divisibility, 1),
            constraints.get("size_divisibility", 1),
        )
        self.padding_constraints = {**constraints, "size_divisibility": self.size_divisibility}
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        keys = cfg.MODEL.SEM_SEG_HEAD
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        unknown = [name for name in keys.IN_FEATURES if name not in shapes]
        if unknown or not keys.IN_FEATURES:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(keys.IN_FEATURES)}; the backbone gives "
                f"{list(shapes)}. A neck (MODEL.BACKBONE.NAME build_neck_backbone) gives p2, p3, "
                "..., a backbone alone res2, res3, ...; MODEL.RESNETS.OUT_FEATURES says which."
            )
        build_head = look_up(SEM_SEG_HEADS_REGISTRY, keys.NAME, "MODEL.SEM_SEG_HEAD.NAME")
        with config_errors():
            head = build_head(cfg, shapes)
        return {
            "backbone": backbone,
            "sem_seg_head": head,
            "losses": SemSegLosses(cfg),
            "inference": DenseInference(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "ignore_value": keys.IGNORE_VALUE,
            "loss_weight": keys.LOSS_WEIGHT,
            # a plain ResNet asks for nothing; but maps meet only where every stride divides
            "size_divisibility": math.lcm(*(shapes[name].stride for name in keys.IN_FEATURES)),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Train on a batch, or predict it.

        Args:
            batched_inputs: of detectron2's DatasetMapper: "image" (C, H, W), in training "sem_seg"
                (H, W) with the class of each pixel, in inference "height" and "width" of the
                result, by default those of the image.

        Returns:
            in training scalar losses: "loss_sem_seg", and "loss_sem_seg_<output>" for each
            auxiliary output; with several losses, "_<loss>" follows. In inference a list of
            {"sem_seg": logits (K, height, width), or labels (height, width)}.
        """
        if self.training:
            return self._train(batched_inputs)
        if self.inference.takes_batches:
            return self._infer_batch(batched_inputs)
        return [{"sem_seg": self._infer(entry)} for entry in batched_inputs]

    def inputs(self, batched_inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """{"image": (N, C, H, W)}, normalised and padded."""
        return {"image": self._images(batched_inputs).tensor}

    def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of :meth:`inputs`, logits by name: "sem_seg" (N, K, h, w) at the stride of the head."""
        return self._head(self.backbone(inputs["image"]))

    def _head(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        if isinstance(self.sem_seg_head, SemSegFPNHead):
            # its forward would compute its own loss
            return {"sem_seg": self.sem_seg_head.layers(features)}
        return self.sem_seg_head(features)

    def _train(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        if any("sem_seg" not in entry for entry in batched_inputs):
            names = [entry.get("file_name") for entry in batched_inputs if "sem_seg" not in entry]
            raise ConfigError(
                f"Training images without labels of their pixels: {names}. FusionSemanticSegmentor "
                'learns from data sets with "sem_seg_file_name"; see DATASETS.TRAIN.'
            )
        images = self._images(batched_inputs)
        labels = self._batch(
            [entry["sem_seg"].to(self.device) for entry in batched_inputs], self.ignore_value
        ).tensor.long()
        if not self.assistant_weights:
            return self._losses_of(self.outputs({"image": images.tensor}), labels)
        branches = split_branches(self.backbone(images.tensor))
        losses = self._losses_of(self._head(branches[-1]), labels)
        for k, weight, features in with_weights(branches, self.assistant_weights):
            losses |= weighed(self._losses_of(self._head(features), labels), weight, k)
        return losses

    def _losses_of(self, outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        weights = getattr(self.sem_seg_head, "auxiliary_weights", {})
        # https://github.com/pytorch/pytorch/issues/48163: resizing and losses suffer in half
        # precision
        with torch.autocast(self.device.type, enabled=False):
            losses = {}
            for name, logits in outputs.items():
                is_main = name == "sem_seg"
                weight = self.loss_weight if is_main else weights[name]
                key = "loss_sem_seg" if is_main else f"loss_sem_seg_{name}"
                losses |= self._losses(key, logits.float(), labels, weight)
            return losses

    def _losses(self, key: str, logits: Tensor, labels: Tensor, weight: float) -> dict[str, Tensor]:
        if logits.ndim == 2:
            return {key: weight * image_level_loss(logits, labels, self.ignore_value)}
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        values = self.losses(logits, labels)
        if len(values) == 1:
            return {key: weight * next(iter(values.values()))}
        return {f"{key}_{name}": weight * value for name, value in values.items()}

    def _infer_batch(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        images = self._images(batched_inputs)
        padded = tuple(images.tensor.shape[-2:])
        batch = self.outputs({"image": images.tensor})["sem_seg"].float()
        results = []
        for logits, content, entry in zip(batch, images.image_sizes, batched_inputs, strict=True):
            size = _output_size(entry)
            bands = to_size(iter([logits]), padded, content, size)
            results.append({"sem_seg": self.inference.finish(bands, size)})
        return results

    def _infer(self, entry: dict) -> Tensor:
        return self.inference(
            predict=lambda images: self.outputs({"image": images})["sem_seg"],
            prepare=lambda image: self._batch([self._normalise(image)]).tensor[0],
            image=entry["image"].to(self.device),
            size=_output_size(entry),
            divisor=self.size_divisibility,
        )

    def _images(self, batched_inputs: Sequence[Mapping[str, Any]]) -> ImageList:
        return self._batch([self._normalise(entry["image"]) for entry in batched_inputs])

    def _normalise(self, image: Tensor) -> Tensor:
        return (image.to(self.device) - self.pixel_mean) / self.pixel_std

    def _batch(self, tensors: list[Tensor], pad_value: float = 0.0) -> ImageList:
        return ImageList.from_tensors(
            tensors, pad_value=pad_value, padding_constraints=self.padding_constraints
        )


def _output_size(entry: dict) -> tuple[int, int]:
    height, width = entry["image"].shape[-2:]
    return entry.get("height", height), entry.get("width", width)
