"""A lower precision where it costs nothing, and float32 where it would cost accuracy."""

import logging

import torch
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ...errors import ConfigError
from ...kernels.capabilities import has_bfloat16
from .pooler import InferencePooler

__all__ = ["PRECISE", "choose_dtype", "lower_precision"]

# Layers that compute in float32: what they give is ranked, exponentiated or thresholded.
# bfloat16 has 8 bits: of a thousand proposals, hundreds would score alike.
PRECISE = frozenset(
    {
        "anchor_deltas",
        "bbox_pred",
        "bbox_subnet",
        "cls_score",
        "objectness_logits",
        "predictor",
        "score_lowres",
    }
)
_NORMS = (nn.GroupNorm, nn.LayerNorm)
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_dtype(dtype: torch.dtype | str, device: torch.device) -> torch.dtype:
    """What `dtype` stands for on `device`, float32 where the hardware cannot do better.

    Args:
        dtype: "auto" (bfloat16 where the hardware has it), "float32", "bfloat16" or "float16", or
            torch's constants of these names. float16 is for GPUs.
    """
    automatic = dtype == "auto"
    chosen = torch.bfloat16 if automatic else _DTYPES.get(dtype, dtype)
    if chosen not in _DTYPES.values() or (chosen is torch.float16 and device.type == "cpu"):
        raise ConfigError(
            f"optimize_for_inference cannot compute in {dtype} on {device.type}; choose one of "
            '"auto", "float32", "bfloat16", or on a GPU "float16".'
        )
    if chosen is not torch.bfloat16:
        return chosen
    if device.type == "cpu":
        fast = has_bfloat16()
    else:
        fast = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if not fast and not automatic:
        logging.getLogger(__name__).warning(
            "bfloat16 is slower than float32 on this %s; computing in float32.", device.type
        )
    return torch.bfloat16 if fast else torch.float32


def lower_precision(model: nn.Module, dtype: torch.dtype) -> None:
    """Compute in `dtype`, in place, except for norms, pooling of boxes and :data:`PRECISE`.

    Each layer with weights casts what it gets to the type of its weights. Modules that cast by
    themselves (:class:`.convolution.InferenceConv2d`) hold no parameters and are left alone.
    """
    for name, module in model.named_modules():
        if isinstance(module, ROIPooler) and not isinstance(module, InferencePooler):
            # RoIAlign takes its boxes in the type of the features: 3 digits of a coordinate
            module.register_forward_pre_hook(_cast_inputs(torch.float32))
        own = [p for p in module.parameters(recurse=False) if p.is_floating_point()]
        if not own:
            continue
        if _is_precise(name):
            module.register_forward_pre_hook(_cast_inputs(torch.float32))
        elif isinstance(module, _NORMS):
            module.register_forward_pre_hook(_cast_inputs(torch.float32))
            module.register_forward_hook(_cast_output(dtype))
        elif not isinstance(module, nn.modules.batchnorm._NormBase):
            for parameter in own:
                parameter.data = parameter.data.to(dtype)
            module.register_forward_pre_hook(_cast_inputs(dtype))


def _is_precise(name: str) -> bool:
    return not PRECISE.isdisjoint(name.split("."))


class _cast_inputs:
    """Forward pre-hook; a class, so that models with it can be copied and pickled."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: tuple) -> tuple:
        return tree_map(self._cast, args)

    def _cast(self, value):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(self.dtype)
        return value


class _cast_output(_cast_inputs):
    """Forward hook."""

    def __call__(self, module: nn.Module, args: tuple, output):
        return tree_map(self._cast, output)
