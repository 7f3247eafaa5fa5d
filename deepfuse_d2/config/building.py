"""A model from a config; where that cannot be, the error that names the key."""

import traceback

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    GeneralizedRCNN,
    PanopticFPN,
    ProposalNetwork,
    SemanticSegmentor,
    build_backbone,
)
from detectron2.modeling import build_model as build_detectron2_model
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from ..errors import ConfigError, UserError
from ..modeling.meta_arch.protocol import meta_arch_of

__all__ = ["build_model"]

_DEPTHS = (18, 34, 50, 101, 152)


def build_model(cfg: CfgNode) -> nn.Module:
    """detectron2's ``build_model``.

    Raises: ConfigError: a key of detectron2's has a value that it cannot build from. What other
        code raises stays as it is.
    """
    try:
        return build_detectron2_model(cfg)
    except UserError:
        raise
    except Exception as error:
        reason = _reason(cfg, error)
        if reason is None:
            raise
        raise ConfigError(reason) from error


def _reason(cfg: CfgNode, error: Exception) -> str | None:
    """Which key is to blame; None where that is not known."""
    resnets = cfg.MODEL.RESNETS
    if isinstance(error, KeyError) and error.args == (resnets.DEPTH,):
        return f"MODEL.RESNETS.DEPTH is {resnets.DEPTH}; choose one of {list(_DEPTHS)}."
    if isinstance(error, KeyError):
        return _missing_feature(cfg)
    if isinstance(error, (AssertionError, ValueError)) and str(error) and _is_detectron2s(error):
        return f"The model of this config cannot be built: {error}"
    return None


def _missing_feature(cfg: CfgNode) -> str | None:
    """An IN_FEATURES that the backbone does not give."""
    shapes = build_backbone(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))).output_shape()
    for part in _parts(cfg):
        wanted = cfg.MODEL[part].IN_FEATURES
        missing = [name for name in wanted if name not in shapes]
        if missing:
            return (
                f"MODEL.{part}.IN_FEATURES is {list(wanted)}; the backbone gives {list(shapes)}. A "
                "neck (MODEL.BACKBONE.NAME build_neck_backbone) gives p2, p3, ..., a backbone "
                "alone res2, res3, ...; MODEL.RESNETS.OUT_FEATURES says which."
            )
    return None


def _parts(cfg: CfgNode) -> tuple[str, ...]:
    """Nodes below MODEL whose IN_FEATURES count."""
    kind = meta_arch_of(cfg)
    parts: tuple[str, ...] = ()
    if not isinstance(kind, type):
        return parts
    if issubclass(kind, (GeneralizedRCNN, ProposalNetwork)):
        parts += ("RPN",)
    if issubclass(kind, GeneralizedRCNN):
        parts += ("ROI_HEADS",)
    if issubclass(kind, DenseDetector):
        parts += ("RETINANET",)
    if issubclass(kind, (PanopticFPN, SemanticSegmentor)):
        parts += ("SEM_SEG_HEAD",)
    return parts


def _is_detectron2s(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith("detectron2.")
