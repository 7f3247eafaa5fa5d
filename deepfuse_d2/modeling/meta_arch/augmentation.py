"""Test-time augmentation of detectors: means over scales and mirrored images (TEST.AUG)."""

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import HFlipTransform
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA, PanopticFPN
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor, nn

from ...errors import ConfigError
from ...structures.best_class import best_class
from .protocol import meta_arch_of

__all__ = ["PanopticWithTTA", "build_augmented", "check_augmentation"]


def check_augmentation(cfg: CfgNode) -> None:
    """Raise where TEST.AUG.ENABLED asks for what the model of `cfg` cannot do.

    Raises: ConfigError.
    """
    kind = meta_arch_of(cfg)
    if cfg.TEST.AUG.ENABLED and not (isinstance(kind, type) and issubclass(kind, GeneralizedRCNN)):
        raise ConfigError(
            f"TEST.AUG.ENABLED is True, but {cfg.MODEL.META_ARCHITECTURE} has no test-time "
            "augmentation by TEST.AUG, which is for R-CNNs and Panoptic FPN. "
            "FusionSemanticSegmentor's is DEEPFUSE_D2.TEST.SEM_SEG.SCALES and FLIP."
        )
    if cfg.TEST.AUG.ENABLED:
        _check_heads(cfg)


def _check_heads(cfg: CfgNode) -> None:
    for key in ("KEYPOINT_ON", "LOAD_PROPOSALS"):
        if cfg.MODEL[key]:
            raise ConfigError(
                f"Test-time augmentation is not for models with MODEL.{key}; leave out augment "
                "(TEST.AUG.ENABLED)."
            )


def build_augmented(cfg: CfgNode, model: nn.Module) -> GeneralizedRCNNWithTTA:
    """`model` with TEST.AUG; called as the model, with images of their original size.

    Raises: ConfigError: there is no augmentation for such a model.
    """
    if not isinstance(model, GeneralizedRCNN):
        raise ConfigError(f"Test-time augmentation does not know {type(model).__name__}.")
    _check_heads(cfg)
    kind = PanopticWithTTA if isinstance(model, PanopticFPN) else GeneralizedRCNNWithTTA
    return kind(cfg, model)


class PanopticWithTTA(GeneralizedRCNNWithTTA):
    """A Panoptic FPN: its instances as detectron2 augments an R-CNN's, and the mean probabilities
    of its classes over the same views, combined as it combines them."""

    def __init__(self, cfg: CfgNode, model: PanopticFPN):
        # its own inference takes no boxes that are known already
        rcnn = GeneralizedRCNN(
            backbone=model.backbone,
            proposal_generator=model.proposal_generator,
            roi_heads=model.roi_heads,
            pixel_mean=model.pixel_mean.flatten().tolist(),
            pixel_std=model.pixel_std.flatten().tolist(),
            input_format=model.input_format,
        )
        super().__init__(cfg, rcnn.to(model.device).eval())
        self.panoptic = model

    def _inference_one_image(self, input: dict) -> dict:
        found = super()._inference_one_image(input)
        model, size = self.panoptic, (input["height"], input["width"])
        total: Tensor | float = 0.0
        views, transforms = self._get_augmented_inputs(input)
        for view, applied in zip(views, transforms, strict=True):
            images = model.preprocess_image([view])
            logits, _ = model.sem_seg_head(model.backbone(images.tensor), None)
            logits = sem_seg_postprocess(logits[0], images.image_sizes[0], *size)
            if any(isinstance(t, HFlipTransform) for t in applied.transforms):
                logits = logits.flip(-1)
            total = total + logits.float().softmax(dim=0)
        tiny = torch.finfo(total.dtype).tiny
        found["sem_seg"] = (total / len(views)).clamp(min=tiny).log()
        found["panoptic_seg"] = combine_semantic_and_instance_outputs(
            found["instances"],
            best_class(found["sem_seg"])[0].long(),
            model.combine_overlap_thresh,
            model.combine_stuff_area_thresh,
            model.combine_instances_score_thresh,
        )
        return found
