"""What a meta-architecture says of itself, so that nothing around it has to know its class.

    member                        says
    inputs(batched_inputs)        the tensors its network takes, by name: padded, normalised and on
                                  its device
    outputs(inputs)               what its network makes of them, by name: tensors, without anything
                                  that depends on what was found; may be left out
    example_input(height, width)  an entry of batched_inputs, in evaluation, with a black image of
                                  that size; may be left out where an image is all it takes
    mapper_name                   which samples it learns from and predicts, by a name in
                                  ``deepfuse_d2.data.mappers.build.MAPPERS``
    predicts                      what the evaluators find in each prediction: some of "instances",
                                  "sem_seg", "panoptic_seg", "proposals"

The functions here ask it. They also answer for detectron2's own meta-architectures, which have no
such members, and for the classes derived from them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    GeneralizedRCNN,
    PanopticFPN,
    ProposalNetwork,
    SemanticSegmentor,
)
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList
from torch import Tensor, nn

from ...config.look_up import look_up

__all__ = [
    "channels_of",
    "example_of",
    "has_inputs",
    "inputs_of",
    "mapper_name_of",
    "meta_arch_of",
    "predictions_of",
    "takes_image_alone",
]


class _Default(NamedTuple):
    """What a meta-architecture of detectron2's would say."""

    kind: type[nn.Module]
    mapper_name: str
    predicts: tuple[str, ...]


# A derived class comes before its base.
_DEFAULTS = (
    _Default(PanopticFPN, "instances", ("instances", "sem_seg", "panoptic_seg")),
    _Default(GeneralizedRCNN, "instances", ("instances",)),
    _Default(ProposalNetwork, "instances", ("proposals",)),
    _Default(DenseDetector, "instances", ("instances",)),
    _Default(SemanticSegmentor, "sem_seg", ("sem_seg",)),
)


def meta_arch_of(cfg: CfgNode) -> Callable[..., nn.Module]:
    """The class behind MODEL.META_ARCHITECTURE, or whatever else was registered by that name."""
    return look_up(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")


def mapper_name_of(meta_arch: Callable[..., nn.Module] | nn.Module) -> str:
    """Name of the mapper that makes its samples; "instances" for one that says nothing.

    Args:
        meta_arch: a model, or its class.
    """
    default = _default_of(meta_arch)
    return getattr(meta_arch, "mapper_name", default.mapper_name if default else "instances")


def predictions_of(meta_arch: Callable[..., nn.Module] | nn.Module) -> tuple[str, ...]:
    """What each of its predictions holds; () where that is not known.

    Args:
        meta_arch: a model, or its class.
    """
    default = _default_of(meta_arch)
    return tuple(getattr(meta_arch, "predicts", default.predicts if default else ()))


def has_inputs(model: nn.Module) -> bool:
    """Whether it says which tensors it takes, or has what detectron2's have: one image."""
    return callable(getattr(model, "inputs", None)) or (
        isinstance(getattr(model, "backbone", None), nn.Module)
        and isinstance(getattr(model, "pixel_mean", None), Tensor)
    )


def inputs_of(model: nn.Module, batched_inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The tensors that its network takes, by name; of most, {"image": (N, C, H, W)} alone."""
    if callable(getattr(model, "inputs", None)):
        return model.inputs(batched_inputs)
    return {"image": _padded_images(model, batched_inputs).tensor}


def example_of(model: nn.Module, height: int, width: int) -> dict[str, Any]:
    """An entry of batched_inputs with a black image of that size."""
    if callable(getattr(model, "example_input", None)):
        return model.example_input(height, width)
    image = torch.zeros(channels_of(model), height, width)
    return {"image": image, "height": height, "width": width}


def channels_of(model: nn.Module) -> int:
    """Channels of its image, which detectron2 reads off MODEL.PIXEL_MEAN."""
    mean = getattr(model, "pixel_mean", None)
    return 3 if mean is None else mean.numel()


def takes_image_alone(model: nn.Module) -> bool:
    """Whether one image is all that its network takes, by way of `backbone`."""
    if not has_inputs(model) or not isinstance(getattr(model, "backbone", None), nn.Module):
        return False
    if not callable(getattr(model, "inputs", None)):
        return True
    return list(inputs_of(model, [example_of(model, 32, 32)])) == ["image"]


def _default_of(meta_arch: Callable[..., nn.Module] | nn.Module) -> _Default | None:
    kind = type(meta_arch) if isinstance(meta_arch, nn.Module) else meta_arch
    if not isinstance(kind, type):
        return None  # a function that builds one
    return next((default for default in _DEFAULTS if issubclass(kind, default.kind)), None)


def _padded_images(model: nn.Module, batched_inputs: Sequence[Mapping[str, Any]]) -> ImageList:
    """Images as detectron2's meta-architectures make them."""
    if callable(getattr(model, "preprocess_image", None)):
        return model.preprocess_image(batched_inputs)
    # ProposalNetwork and SemanticSegmentor do it inside of forward
    mean, std = model.pixel_mean, model.pixel_std
    images = [(entry["image"].to(mean.device) - mean) / std for entry in batched_inputs]
    return ImageList.from_tensors(
        images,
        model.backbone.size_divisibility,
        padding_constraints=model.backbone.padding_constraints,
    )
