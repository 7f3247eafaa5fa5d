"""Swin Transformers of the authors' files and of mmdetection 2's, which have detectron2's names.

What is left out: the classifier with its norm, and the masks of shifted windows, which detectron2
computes for every size. timm's files have other names (``layers.1.downsample`` for
``layers.0.downsample``) and belong to its own networks.
"""

from collections.abc import Mapping

from torch import Tensor

from .mmdetection_heads import rename_head

__all__ = ["is_swin", "rename_swin"]

_FIRST = "patch_embed.proj.weight"
_MERGING = "layers.0.downsample.reduction.weight"
_UNUSED = ("head.", "norm.")


def is_swin(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are the authors' for a Swin Transformer, alone or in a detector."""
    return any(f"{p}{_FIRST}" in state and f"{p}{_MERGING}" in state for p in ("", "backbone."))


def rename_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of detectron2's Swin, of necks and of heads for the same tensors."""
    renamed = {}
    for name, value in state.items():
        own = name.removeprefix("backbone.")
        if own.startswith(_UNUSED) or own.endswith(".attn_mask"):
            continue
        renamed[own if own != name else rename_head(name)] = value
    return renamed
