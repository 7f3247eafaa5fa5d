"""ExFuseHead: "Enhancing Feature Fusion for Semantic Segmentation" (arXiv 1804.03821), figure 2.

GCN, with more meaning in low levels and more detail in high ones; each part is a switch, and with
all of them off the head is :class:`GCNHead`, parameter names included:

    res5 ------- GCN - BR - ECRE (scores of stride 16, supervised)
    res4 - SEB - GCN - BR --- + - BR - up
    res3 - SEB - GCN - BR ---------- + - BR - up
    res2 - SEB - GCN - BR ----------------- + - BR - up - BR - up - BR - DAP -> scores

- SEB, the semantic embedding branch: a level is multiplied by maps of all deeper levels.
- ECRE, the explicit channel resolution embedding: sub-pixel upsampling in place of the first
  transposed convolution *and* supervision of its output; two switches, because the paper shows
  that each alone hurts (table 4).
- DAP, densely adjacent prediction: k * k times as many channels from stride 8 on, averaged over
  neighbours at the end.
- Semantic supervision happens before, while the backbone learns to classify
  (semantic_supervision.py); layer rearrangement is a backbone (modeling/backbone/
  rearranged_resnet.py). Neither is part of the head.

Open in the paper, and ours: which maps DAP widens, the convolution before sub-pixel upsampling, the
weight of the supervision. `multi_label_weight` is no part of the paper.
"""

from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...errors import ConfigError
from ...layers import DenselyAdjacentPrediction, SemanticEmbeddingBranch, SubPixelUpsample
from ..registration import register
from .features import from_fine_to_coarse
from .gcn import GCNHead
from .semantic_supervision import SemanticSupervision

__all__ = ["ExFuseHead"]


@register(SEM_SEG_HEADS_REGISTRY)
class ExFuseHead(GCNHead):
    """GCN's decoder with any of SEB, sub-pixel upsampling, supervision of it, and DAP."""

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        kernel_size: int | Sequence[int] = 15,
        upsampling: str = "deconv",
        output_stride: int = 1,
        output_refinement: bool = True,
        bias: bool = True,
        semantic_embedding: bool = True,
        sub_pixel: bool = True,
        supervise_first: bool = True,
        supervision_weight: float = 0.4,
        dap_size: int = 3,
        dap_divide_by_valid: bool = False,
        multi_label_weight: float = 0.0,
    ):
        """
        Args:
            input_shape, num_classes, kernel_size, upsampling, output_stride, output_refinement,
                bias: see :class:`GCNHead`.
            semantic_embedding: SEB on all levels but the coarsest.
            sub_pixel: the first upsampling is a rearrangement of channels.
            supervise_first: what the first upsampling gives is an output of its own in training,
                "ecre".
            supervision_weight: weight of its loss, relative to the one of the scores.
            dap_size: k of densely adjacent prediction, odd; 1 switches it off.
            dap_divide_by_valid: see :class:`deepfuse_d2.layers.DenselyAdjacentPrediction`.
            multi_label_weight: weight of an image-level loss, 0 for none: from each feature, which
                classes the image holds. Its outputs "classes_<feature>", (N, C), exist in training
                only.
        """
        shapes = from_fine_to_coarse(input_shape)
        names, channels = tuple(shapes), [shape.channels for shape in shapes.values()]
        dap = DenselyAdjacentPrediction(dap_size, dap_divide_by_valid)
        if len(shapes) < 2 or (dap_size > 1 and len(shapes) < 3):
            raise ConfigError(
                f"ExFuseHead reads {list(names)}; it needs two features, and three where "
                f"MODEL.EXFUSE.DAP_SIZE is over 1 (it is {dap_size}). Add features to "
                "MODEL.SEM_SEG_HEAD.IN_FEATURES."
            )
        for weight, key in (
            (supervision_weight, "SUPERVISION_WEIGHT"),
            (multi_label_weight, "MULTI_LABEL_WEIGHT"),
        ):
            if weight < 0:
                raise ConfigError(f"MODEL.EXFUSE.{key} is {weight}; it must be 0 or more.")
        # The scores that ECRE supervises, and what is added to them, keep one channel a class.
        widened = num_classes * dap_size**2
        super().__init__(
            input_shape,
            num_classes=num_classes,
            kernel_size=kernel_size,
            upsampling=upsampling,
            output_stride=output_stride,
            output_refinement=output_refinement,
            bias=bias,
            widths=[widened] * (len(shapes) - 2) + [num_classes] * 2,
        )
        self.semantic_embedding = (
            nn.ModuleList(
                SemanticEmbeddingBranch(channels[i], channels[i + 1 :])
                for i in range(len(shapes) - 1)
            )
            if semantic_embedding
            else None
        )
        if sub_pixel:
            self.up[-1] = SubPixelUpsample(num_classes)
        self.supervise_first = supervise_first
        if supervise_first:
            self.auxiliary_weights["ecre"] = supervision_weight
        self.dap = dap
        self.multi_label = None
        if multi_label_weight:
            self.multi_label = nn.ModuleDict(
                {name: SemanticSupervision(shapes[name].channels, num_classes) for name in names}
            )
            self.auxiliary_weights |= {f"classes_{name}": multi_label_weight for name in names}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        exfuse = cfg.MODEL.EXFUSE
        return super().from_config(cfg, input_shape) | {
            "semantic_embedding": exfuse.SEMANTIC_EMBEDDING,
            "sub_pixel": exfuse.SUB_PIXEL,
            "supervise_first": exfuse.SUPERVISE_FIRST,
            "supervision_weight": exfuse.SUPERVISION_WEIGHT,
            "dap_size": exfuse.DAP_SIZE,
            "dap_divide_by_valid": exfuse.DAP_DIVIDE_BY_VALID,
            "multi_label_weight": exfuse.MULTI_LABEL_WEIGHT,
        }

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{name: (N, C_l, H/s, W/s)} -> {"sem_seg": (N, C, H/o, W/o)} with o = `output_stride`.

        In training also "ecre" (N, C, ...) at the second coarsest stride, and
        "classes_<feature>" (N, C), as far as they are switched on.
        """
        plain = [features[name] for name in self.in_features]
        xs = plain
        if self.semantic_embedding is not None:
            embedded = [
                branch(x, plain[i + 1 :])
                for i, (branch, x) in enumerate(
                    zip(self.semantic_embedding, plain[:-1], strict=True)
                )
            ]
            xs = [*embedded, plain[-1]]
        scores, first = self.decode(xs)
        outputs = {"sem_seg": self.dap(scores)}
        if self.training and self.supervise_first:
            outputs["ecre"] = first
        if self.training and self.multi_label is not None:
            for name, x in zip(self.in_features, plain, strict=True):
                outputs[f"classes_{name}"] = self.multi_label[name](x)
        return outputs
