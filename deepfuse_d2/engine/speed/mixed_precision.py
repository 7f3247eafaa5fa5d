"""A forward pass in a lower precision on what the machine has; what must stay float32 does."""

import logging

import torch
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from torch import Tensor, nn

from ...errors import ConfigError
from ...kernels.capabilities import has_bfloat16

__all__ = ["autocast_dtype", "keep_float32"]

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Element type of the forward pass that SOLVER.AMP asks for; None for float32.

    None, with a warning, also on a CPU where the type asked for is slower than float32.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if cfg.DEEPFUSE_D2.SOLVER.AMP.DTYPE not in _DTYPES:
        raise ConfigError(
            f'DEEPFUSE_D2.SOLVER.AMP.DTYPE = "{cfg.DEEPFUSE_D2.SOLVER.AMP.DTYPE}" is unknown; '
            "choose one of "
            f"{list(_DTYPES)}."
        )
    dtype = _DTYPES[cfg.DEEPFUSE_D2.SOLVER.AMP.DTYPE]
    on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
    if on_cpu and (dtype is not torch.bfloat16 or not has_bfloat16()):
        logging.getLogger(__name__).warning(
            "SOLVER.AMP is on, but %s is slower than float32 on this CPU; training in float32.",
            cfg.DEEPFUSE_D2.SOLVER.AMP.DTYPE,
        )
        return None
    return dtype


def keep_float32(model: nn.Module, device_type: str) -> nn.Module:
    """Prepare `model` for autocast; returns it.

    What the heads of detectron2 predict becomes float32 where it leaves them, so that losses, box
    arithmetic and resizing of masks are float32 whatever list of operations autocast has; so are
    the resizings of its semantic heads (those of ours see to it themselves). Dilated convolutions
    of a CPU stay in float32 where oneDNN has no right gradient in bfloat16.
    """
    for module in model.modules():
        if isinstance(module, nn.Upsample) and module.mode != "nearest":
            _compute_in_float32(module)
        if isinstance(module, BaseMaskRCNNHead) and hasattr(module, "predictor"):
            module = module.predictor
        elif isinstance(module, DenseDetector):
            module = module.head
        elif not isinstance(module, (StandardRPNHead, FastRCNNOutputLayers)):
            continue
        module.register_forward_hook(_output_in_float32)
    if device_type == "cpu":
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and _has_wrong_gradient(module):
                _compute_in_float32(module)
    return model


def _compute_in_float32(module: nn.Module) -> None:
    kind = type(module)
    if not issubclass(kind, _InFloat32):
        module.__class__ = type(f"Float32{kind.__name__}", (_InFloat32, kind), {})


class _InFloat32:
    """Mixed into the class of a module of one input that autocast must not touch."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def _has_wrong_gradient(conv: nn.Conv2d) -> bool:
    """Whether oneDNN may give NaN or halves as gradients of `conv` in bfloat16.

    Seen with torch 2.14 for dilated kernels, channels innermost and numbers of channels, such as
    24, 36 or 40, that are no multiples of 16.
    """
    channels = (conv.in_channels // conv.groups, conv.out_channels // conv.groups)
    return max(conv.dilation) > 1 and any(count % 16 for count in channels)


def _output_in_float32(module: nn.Module, args: tuple, output):
    return _in_float32(output)


def _in_float32(value):
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(_in_float32(one) for one in value)
    return value
