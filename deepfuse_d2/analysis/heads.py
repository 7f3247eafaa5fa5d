"""The parts behind the backbone of detectron2's models, each with inputs of the right shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn

__all__ = ["Head", "heads_of"]


class Head(NamedTuple):
    """A part, how to call it, and on what; without `call`, it is not known how."""

    name: str
    modules: list[nn.Module]
    call: Callable[..., object] | None
    inputs: list[Tensor]


def heads_of(
    model: nn.Module, features: dict[str, Tensor], proposals: int, detections: int
) -> Iterator[Head]:
    """The parts behind the backbone, each on the features that it takes."""
    generator = getattr(model, "proposal_generator", None)
    if generator is not None:
        rpn_head = getattr(generator, "rpn_head", None)
        yield Head(
            "proposal generator",
            [generator],
            None if rpn_head is None else lambda *maps: rpn_head(list(maps)),
            [features[name] for name in getattr(generator, "in_features", ())],
        )
    if getattr(model, "roi_heads", None) is not None:
        yield from _roi_heads(model.roi_heads, features, proposals, detections)
    if getattr(model, "head", None) is not None:
        maps = [features[name] for name in model.head_in_features]
        yield Head("dense head", [model.head], lambda *maps: model.head(list(maps)), maps)
    if getattr(model, "sem_seg_head", None) is not None:
        head = model.sem_seg_head
        # beyond its layers, its forward resizes to the image
        layers = head.layers if isinstance(head, SemSegFPNHead) else head
        names = list(features)
        yield Head(
            "semantic head",
            [head],
            lambda *maps: layers(dict(zip(names, maps, strict=True))),
            list(features.values()),
        )


def _roi_heads(
    roi_heads: nn.Module, features: dict[str, Tensor], proposals: int, detections: int
) -> Iterator[Head]:
    """Box, mask and keypoint head of StandardROIHeads, of a cascade, or of Res5ROIHeads (C4)."""
    # in a C4 network, heads share the last stage of the bottom-up network
    shared = getattr(roi_heads, "res5", None)
    first = features[roi_heads.in_features[0]]

    def pooled(pooler: nn.Module, count: int) -> list[Tensor]:
        return [first.new_zeros(count, first.shape[1], *pooler.output_size)]

    if shared is None:
        heads, predictors = roi_heads.box_head, roi_heads.box_predictor
        if not isinstance(heads, nn.ModuleList):
            heads, predictors = [heads], [predictors]

        def boxes(x: Tensor) -> list[object]:
            return [predict(head(x)) for head, predict in zip(heads, predictors, strict=True)]

        inputs = pooled(roi_heads.box_pooler, proposals)
        yield Head("box head", [*heads, *predictors], boxes, inputs)
    else:

        def boxes(x: Tensor) -> object:
            return roi_heads.box_predictor(shared(x).mean(dim=(2, 3)))

        inputs = pooled(roi_heads.pooler, proposals)
        yield Head("box head", [shared, roi_heads.box_predictor], boxes, inputs)

    for kind in ("mask", "keypoint"):
        head = getattr(roi_heads, f"{kind}_head", None)
        if head is None:
            continue
        pooler = roi_heads.pooler if shared is not None else getattr(roi_heads, f"{kind}_pooler")
        if pooler is None or not hasattr(head, "layers"):
            yield Head(f"{kind} head", [head], None, [])
        elif shared is None:
            yield Head(f"{kind} head", [head], head.layers, pooled(pooler, detections))
        else:
            call = functools.partial(lambda layers, x: layers(shared(x)), head.layers)
            yield Head(f"{kind} head", [head, shared], call, pooled(pooler, detections))
