"""What the parts of a model cost."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..modeling.backbone.protocol import children_backbones
from ..modeling.meta_arch.protocol import example_of, has_inputs, inputs_of
from . import counting
from .heads import Head, heads_of

__all__ = ["Analysis", "Cost", "analyze"]


@dataclass(frozen=True)
class Cost:
    """What a part costs for one image. `multiply_adds` and `activations` are numbers, not giga.

    Activations are the elements of what convolutions, linear layers and matrix products give.
    """

    parameters: int = 0
    trained: int = 0
    multiply_adds: int = 0
    activations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.trained + other.trained,
            self.multiply_adds + other.multiply_adds,
            self.activations + other.activations,
        )


@dataclass(frozen=True)
class Analysis:
    """The costs of a model.

    Attributes:
        parts: by name, from the image to the heads.
        size: (height, width) of the image after padding to what the model divides by.
        unsupported: operators that may hold multiply-adds and were not counted, with their number.
    """

    parts: dict[str, Cost]
    size: tuple[int, int]
    unsupported: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> Cost:
        return sum(self.parts.values(), Cost())


def analyze(
    model: nn.Module,
    size: tuple[int, int] = (512, 1024),
    *,
    proposals: int = 1000,
    detections: int = 100,
) -> Analysis:
    """Cost of `model` for one image in inference.

    Args:
        model: an R-CNN, a dense detector (RetinaNet, FCOS), Panoptic FPN or a semantic segmentor,
            on any device, "meta" among them, which costs no memory and no computing: its parts are
            found by detectron2's names (backbone, proposal_generator, roi_heads, head,
            sem_seg_head). What of it has another name is "other", with its parameters alone.
        size: (height, width) of the image.
        proposals: boxes for each box head (each stage of a cascade).
        detections: boxes for the mask and keypoint heads.

    Raises:
        ConfigError: the model has no backbone, or numbers are not positive.

    Example:
        >>> analyze(build_model(load_config("config.yaml"))).total.multiply_adds
    """
    if min(*size, proposals, detections) < 1:
        raise ConfigError(
            f"size = {size}, proposals = {proposals}, detections = {detections}; expected numbers "
            "of 1 and more."
        )
    backbone = getattr(model, "backbone", None)
    if not has_inputs(model):
        raise ConfigError(
            f"{type(model).__name__} has no backbone; its parts are not known here. Analyse an "
            "R-CNN, a dense detector, Panoptic FPN or a semantic segmentor, or a meta-architecture "
            "that says what it takes (deepfuse_d2.modeling.meta_arch.protocol)."
        )
    with _in_eval(model):
        inputs = inputs_of(model, [example_of(model, *size)])
    if list(inputs) != ["image"] or not isinstance(backbone, nn.Module):
        return _by_children(model, inputs, size)
    image = inputs["image"]
    size = tuple(image.shape[-2:])
    features: dict[str, Tensor] = {}

    def call_backbone(image: Tensor) -> dict[str, Tensor]:
        features.update(backbone(image))
        return features

    parts = _Parts()
    with torch.no_grad(), _in_eval(model):
        counts = parts.count(Head("backbone", [backbone], call_backbone, [image]))
        children = children_backbones(backbone)
        if len(children) == 1:
            [(path, network)] = children.items()
            bottom_up = counts[f"0.{path}"]
            parts.add("bottom-up", [network], bottom_up)
            parts.add("neck", [backbone], counts[""] - bottom_up)
        else:
            parts.add("bottom-up", [backbone], counts[""])
        for head in heads_of(model, features, proposals, detections):
            parts.add(head.name, head.modules, parts.count(head)[""])
    parts.add("other", [model], Counter())
    return Analysis(parts.costs, size, parts.unsupported)


class _Parts:
    """Costs of parts, which are added from the image to the heads."""

    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}
        self.unsupported: Counter[str] = Counter()
        self._seen: set[int] = set()

    def add(self, name: str, modules: Sequence[nn.Module], counts: Mapping[str, int]) -> None:
        """Add a part; parameters that an earlier part has stay with that one."""
        owned = {id(p): p for module in modules for p in module.parameters()}
        owned = {key: p for key, p in owned.items() if key not in self._seen}
        self._seen.update(owned)
        trained = sum(p.numel() for p in owned.values() if p.requires_grad)
        cost = Cost(sum(p.numel() for p in owned.values()), trained, **counts)
        if cost != Cost():
            self.costs[name] = cost

    def count(self, head: Head) -> dict[str, Counter[str]]:
        """Counts by the path of a module in the head, "" for all of it."""
        if head.call is None:
            self.unsupported[type(head.modules[0]).__name__] += 1
            return {"": Counter()}
        counts, unsupported = counting.count(head.modules, head.call, head.inputs)
        self.unsupported += unsupported
        return counts


def _by_children(model: nn.Module, inputs: dict[str, Tensor], size: tuple[int, int]) -> Analysis:
    """Costs of a network of any inputs: a part for each module that is directly in it."""
    if not callable(getattr(model, "outputs", None)):
        raise ConfigError(
            f"{type(model).__name__} takes {list(inputs)}; to be analysed, it needs a method "
            "outputs(inputs) that runs its network alone."
        )
    names = list(inputs)
    children = dict(model.named_children())
    with torch.no_grad(), _in_eval(model):
        counts, unsupported = counting.count(
            list(children.values()),
            lambda *tensors: model.outputs(dict(zip(names, tensors, strict=True))),
            list(inputs.values()),
        )
    parts = _Parts()
    parts.unsupported += unsupported
    inside: Counter[str] = Counter()
    for number, (name, module) in enumerate(children.items()):
        own = _inside(counts, str(number), module)
        inside += own
        parts.add(name, [module], own)
    # with what is computed in no module of it
    parts.add("other", [model], counts[""] - inside)
    if "image" in inputs:
        size = tuple(inputs["image"].shape[-2:])
    return Analysis(parts.costs, size, parts.unsupported)


def _inside(counts: Mapping[str, Counter[str]], path: str, module: nn.Module) -> Counter[str]:
    """Counts of a module; where it is not called itself (a list), of the modules in it."""
    if path in counts:
        return counts[path]
    parts = (_inside(counts, f"{path}.{name}", part) for name, part in module.named_children())
    return sum(parts, Counter())


@contextlib.contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module has its own again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
