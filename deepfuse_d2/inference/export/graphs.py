"""Models as graphs of plain tensors, which other runtimes can take over.

A detectron2 model takes a list of dictionaries and gives objects. A graph takes one image tensor,
as the data loader makes it, and gives a tuple of tensors; normalisation and padding are inside, so
an image may have any size.

    part       of                          gives
    semantic   a semantic segmentor        logits of every pixel
    features   whatever has a backbone     the maps of backbone and neck
    rpn        an R-CNN                    these maps, and box and score of every anchor
    detector   an R-CNN, whole             boxes, scores, classes, masks
    panoptic   a Panoptic FPN, whole       the same, and logits of every pixel

"rpn" ends where the number of boxes begins to depend on the image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Instances
from torch import Tensor, nn

from ...errors import ConfigError
from ...kernels.packed_conv import InferenceConv2d
from ...modeling.meta_arch.protocol import (
    example_of,
    has_inputs,
    inputs_of,
    predictions_of,
    takes_image_alone,
)

__all__ = ["PARTS", "ExportGraph", "build_graph", "default_part"]


class ExportGraph(nn.Module):
    """Base of the graphs: ``graph(image) -> tuple of tensors``.

    Attributes:
        part: name in `PARTS`.
        outputs: name -> what it is, in the order of the tuple.
        largest_stride: of the maps in it. An image of torch.export has larger sides.
        divisor: the image is padded at the right and the bottom to multiples of it.
    """

    part = ""
    #: Dimensions of the image that may differ from call to call.
    dynamic = ("batch", "height", "width")
    #: Outputs, from the first on, of which there are as many as objects were found.
    counted: tuple[str, ...] = ()

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        shapes = model.backbone.output_shape().values()
        constraints = getattr(model, "padding_constraints", model.backbone.padding_constraints)
        if constraints.get("square_size", 0) > 0 and not isinstance(self, DetectorGraph):
            raise ConfigError(
                f"The backbone takes squares of {constraints['square_size']} pixels only; "
                'padding inside of an exported graph makes none. Export the part "detector" of an '
                "R-CNN, or another backbone."
            )
        self.largest_stride = max(shape.stride for shape in shapes)
        self.divisor = math.lcm(
            max(model.backbone.size_divisibility, 1), constraints.get("size_divisibility", 0) or 1
        )
        self.outputs: dict[str, str] = {}

    def prepared(self, image: Tensor) -> Tensor:
        """(N, C, H, W) pixels -> normalised, then padded with zeros, as detectron2 does it."""
        image = (image - self.model.pixel_mean) / self.model.pixel_std
        height, width = image.shape[-2:]
        right, bottom = (self._rounded_up(side) - side for side in (width, height))
        return F.pad(image, (0, right, 0, bottom))

    def _rounded_up(self, side: int) -> int:
        # Where `side` is a symbol, sizes of all maps stay simple in this form. With -side % divisor
        # for the padding they do not, and torch.export takes minutes.
        return (side + self.divisor - 1) // self.divisor * self.divisor

    def sample(self) -> Tensor:
        """An image for the exporter: all sides differ, and every map has several rows."""
        shape = (3 * self.largest_stride - 5, 4 * self.largest_stride - 7)
        channels = self.model.pixel_mean.shape[0]
        batch = (2,) if "batch" in self.dynamic else ()
        generator = torch.Generator().manual_seed(0)
        return 255 * torch.rand(*batch, channels, *shape, generator=generator)


class SemanticGraph(ExportGraph):
    """(N, C, H, W) -> logits (N, K, H, W), those of the model for an output of the same size."""

    part = "semantic"

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.outputs = {"sem_seg": "(N, K, H, W) logits; the class of a pixel is their argmax"}

    def forward(self, image: Tensor) -> tuple[Tensor]:
        padded = self.prepared(image)
        if callable(getattr(self.model, "outputs", None)):
            logits = self.model.outputs({"image": padded})["sem_seg"]
        else:
            logits, _ = self.model.sem_seg_head(self.model.backbone(padded))
        size = padded.shape[-2:]
        logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
        return (_cut(logits, image),)


class FeatureGraph(ExportGraph):
    """(N, C, H, W) -> the maps of backbone and neck, of the padded image."""

    part = "features"

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.outputs = {
            name: f"(N, {shape.channels}, H', W'), stride {shape.stride} in the padded image"
            for name, shape in model.backbone.output_shape().items()
        }

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.backbone(self.prepared(image)).values())


class ProposalGraph(FeatureGraph):
    """(N, C, H, W) -> the maps, then box and score of all R anchors, from fine to coarse levels.

    What follows in detectron2's RPN: the best anchors of each level, boxes cut at the image's
    border, non-maximum suppression level by level.
    """

    part = "rpn"

    def __init__(self, model: nn.Module):
        super().__init__(model)
        if not isinstance(getattr(model, "proposal_generator", None), RPN):
            raise ConfigError(
                f'The part "rpn" is of R-CNNs with detectron2\'s RPN; {type(model).__name__} has '
                f'none. Export "{default_part(model)}".'
            )
        self.outputs |= {
            "anchor_boxes": "(N, R, 4) x1, y1, x2, y2 in pixels, one for each anchor, not cut",
            "anchor_logits": "(N, R) objectness; its sigmoid is a probability",
        }

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.model.backbone(self.prepared(image))
        rpn = self.model.proposal_generator
        maps = [features[name] for name in rpn.in_features]
        logits, deltas = rpn.rpn_head(maps)
        boxes = []
        for anchors, delta in zip(rpn.anchor_generator(maps), deltas, strict=True):
            n, channels, height, width = delta.shape
            size = anchors.tensor.shape[1]
            # (N, A * 4, h, w) -> (N, h * w * A, 4), the order of the anchors
            delta = delta.view(n, channels // size, size, height, width).permute(0, 3, 4, 1, 2)
            delta = delta.reshape(n, -1, size)
            repeated = anchors.tensor.expand(n, -1, -1).reshape(-1, size)
            decoded = rpn.box2box_transform.apply_deltas(delta.reshape(-1, size), repeated)
            boxes.append(decoded.reshape(n, -1, size))
        scores = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
        return (*features.values(), torch.cat(boxes, dim=1), torch.cat(scores, dim=1))


class DetectorGraph(ExportGraph):
    """(C, H, W) -> boxes, scores, classes and masks of the N objects found, best first."""

    part = "detector"
    of = "R-CNNs that find boxes or masks"
    dynamic = ("height", "width")

    def __init__(self, model: nn.Module):
        super().__init__(model)
        if not self.fits(model):
            other = default_part(model)
            raise ConfigError(
                f'The part "{self.part}" is of {self.of}; this {type(model).__name__} is none. '
                f'Export "{"rpn" if other == self.part else other}".'
            )
        self.fields = ["pred_boxes", "scores", "pred_classes"]
        self.outputs = {
            "boxes": "(N, 4) x1, y1, x2, y2 in pixels of the image",
            "scores": "(N,) from high to low",
            "classes": "(N,) int64, from 0",
        }
        if getattr(model.roi_heads, "mask_on", False):
            self.fields.append("pred_masks")
            self.outputs["masks"] = "(N, 1, M, M) probabilities inside of the box"
        self.counted = tuple(self.outputs)

    @staticmethod
    def fits(model: nn.Module) -> bool:
        return (
            isinstance(model, GeneralizedRCNN)
            and not isinstance(model, PanopticFPN)
            and not getattr(model.roi_heads, "keypoint_on", False)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self._tensors(self.model.inference([{"image": image}], do_postprocess=False)[0])

    def _tensors(self, found: Instances) -> tuple[Tensor, ...]:
        fields = [found.get(name) for name in self.fields]
        return (fields[0].tensor, *fields[1:])


class PanopticGraph(DetectorGraph):
    """(C, H, W) -> what :class:`DetectorGraph` gives, and logits (K, H, W) of stuff and "things".

    What follows in detectron2's Panoptic FPN: masks pasted, the best first, then stuff where none
    is (``combine_semantic_and_instance_outputs``).
    """

    part = "panoptic"
    of = "Panoptic FPNs without keypoints"

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.outputs["sem_seg"] = "(K, H, W) logits; the class of a pixel is their argmax"

    @staticmethod
    def fits(model: nn.Module) -> bool:
        keypoints = isinstance(model, GeneralizedRCNN) and getattr(
            model.roi_heads, "keypoint_on", False
        )
        return isinstance(model, PanopticFPN) and not keypoints

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found, logits = self.model.inference([{"image": image}], do_postprocess=False)
        return (*self._tensors(found[0]), _cut(logits[:1], image)[0])


#: Part -> its graph.
PARTS: dict[str, type[ExportGraph]] = {
    graph.part: graph
    for graph in (SemanticGraph, FeatureGraph, ProposalGraph, DetectorGraph, PanopticGraph)
}


def default_part(model: nn.Module) -> str:
    """The part that is most of a model: all of it, or else its backbone with the neck."""
    if isinstance(model, GeneralizedRCNN):
        return "panoptic" if isinstance(model, PanopticFPN) else "detector"
    if predictions_of(model) == ("sem_seg",):
        return "semantic"
    return "rpn" if isinstance(getattr(model, "proposal_generator", None), RPN) else "features"


def _cut(maps: Tensor, image: Tensor) -> Tensor:
    """Maps (N, K, H', W') of the padded image, cut to the image (..., H, W).

    A slice of all rows would be a view without a copy, and torch.export would hold that to be so of
    every size.
    """
    rows, columns = (torch.arange(n, device=image.device) for n in image.shape[-2:])
    return maps.index_select(2, rows).index_select(3, columns)


def build_graph(model: nn.Module, part: str = "") -> ExportGraph:
    """The graph of a part of `model`, which has to be in evaluation, on the CPU and in float32.

    Args:
        part: a name in `PARTS`; "" takes what is most of the model.

    Raises:
        ConfigError: there is no such part, or the model has none; or it is not in such a state.
    """
    if not takes_image_alone(model):
        takes = list(inputs_of(model, [example_of(model, 64, 64)])) if has_inputs(model) else "?"
        raise ConfigError(
            f"A graph for other runtimes takes one image, which goes to a backbone; this "
            f"{type(model).__name__} takes {takes}. Export it by torch.export or torch.jit.trace "
            "of its method outputs(inputs)."
        )
    part = part or default_part(model)
    if part not in PARTS:
        raise ConfigError(f'The part "{part}" is unknown; choose one of {list(PARTS)}.')
    if part == "semantic" and default_part(model) != "semantic":
        raise ConfigError(
            f'The part "semantic" is of semantic segmentors; this is a {type(model).__name__}. '
            f'Export "{default_part(model)}".'
        )
    if any(isinstance(module, InferenceConv2d) for module in model.modules()):
        raise ConfigError(
            "The model went through optimize_for_inference; its operators are those of this "
            "machine. Export the model as it was before; other runtimes optimise it themselves."
        )
    weights = next(model.parameters())
    if model.training or weights.device.type != "cpu" or weights.dtype != torch.float32:
        raise ConfigError(
            "A model to be exported is in evaluation, on the CPU and in float32; this one is "
            f"{'in training' if model.training else 'in evaluation'}, on {weights.device} and in "
            f"{weights.dtype}. Call model.eval().float().cpu() first; MODEL.DEVICE says where it "
            "looks for images."
        )
    return PARTS[part](model).eval()
