"""Losses of semantic segmentation, each over all pixels of a batch that are not ignored.

Every loss is called as ``loss(logits (N, K, H, W) float32, labels (N, H, W) int64)`` and returns a
scalar. Where there is nothing to learn, in a batch that is ignored altogether, it is 0 and has a
gradient, so that all processes of a distributed training go the same way. Ignored pixels are masked
and not taken out: no shape depends on values, and a GPU need not wait for the CPU.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ...errors import ConfigError

__all__ = [
    "PIXEL_LOSSES",
    "CrossEntropy",
    "DiceLoss",
    "FocalLoss",
    "LovaszSoftmax",
    "OhemCrossEntropy",
    "SemSegLosses",
    "image_level_loss",
]


class _PixelLoss(nn.Module):
    """A loss that is a weighted mean over pixels.

    Args:
        ignore_value: label of the pixels that do not count.
        class_weights: (K,) weight of a pixel by its class; None gives all the same.
    """

    def __init__(self, ignore_value: int = 255, class_weights: Tensor | None = None):
        super().__init__()
        self.ignore_value = ignore_value
        # part of the recipe, not of the trained model
        self.register_buffer("class_weights", class_weights, persistent=False)

    def pixel_weights(self, labels: Tensor) -> Tensor:
        """(N, H, W) weights, 0 where ignored."""
        is_valid = labels != self.ignore_value
        if self.class_weights is None:
            return is_valid.float()
        return self.class_weights[torch.where(is_valid, labels, 0)] * is_valid

    def log_likelihood(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, H, W) of -log of the probability of the true class, 0 where ignored."""
        return F.cross_entropy(logits, labels, ignore_index=self.ignore_value, reduction="none")


class CrossEntropy(_PixelLoss):
    """``sum_i w_i (-log p_i) / sum_i w_i``: p_i is the probability of the true class of pixel i."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = F.cross_entropy(
            logits, labels, self.class_weights, ignore_index=self.ignore_value, reduction="sum"
        )
        return _ratio(total, self.pixel_weights(labels).sum())


class OhemCrossEntropy(_PixelLoss):
    """Cross-entropy over the hard pixels alone (online hard example mining, arXiv 1604.03540).

    Hard is a pixel whose true class has a probability of at most `probability`, and in any case the
    hardest `min_kept` of all that count.

    Args:
        probability: in (0, 1].
        min_kept: fraction in [0, 1] of the pixels that are not ignored.
    """

    def __init__(
        self,
        ignore_value: int = 255,
        class_weights: Tensor | None = None,
        *,
        probability: float = 0.7,
        min_kept: float = 1 / 16,
    ):
        super().__init__(ignore_value, class_weights)
        if not (0 < probability <= 1 and 0 <= min_kept <= 1):
            raise ConfigError(
                f"Hard example mining got the probability {probability} (allowed: above 0, up to "
                f"1; DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.OHEM_PROBABILITY) and the fraction {min_kept} "
                "(allowed: 0 to 1; DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.OHEM_MIN_KEPT)."
            )
        self.probability = probability
        self.min_kept = min_kept

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = self.log_likelihood(logits, labels)
        is_valid = labels != self.ignore_value
        # the smallest loss among the hardest `min_kept`; ignored pixels come last
        ranked = torch.where(is_valid, losses.detach(), -1.0).flatten().sort(descending=True)[0]
        kept = torch.ceil(self.min_kept * is_valid.sum()).long()
        smallest = torch.where(kept > 0, ranked[(kept - 1).clamp(min=0)], math.inf)
        is_hard = losses.detach() >= smallest.clamp(max=-math.log(self.probability))
        weights = self.pixel_weights(labels) * is_hard
        return _ratio((weights * losses).sum(), weights.sum())


class FocalLoss(_PixelLoss):
    """``sum_i w_i (1 - p_i)^gamma (-log p_i) / sum_i w_i`` (arXiv 1708.02002, equation 5).

    Over the softmax of all classes rather than one sigmoid a class; with gamma 0 the cross-entropy.

    Args:
        gamma: 0 or more; the larger, the less a pixel counts that is right already.
    """

    def __init__(
        self,
        ignore_value: int = 255,
        class_weights: Tensor | None = None,
        *,
        gamma: float = 2.0,
    ):
        super().__init__(ignore_value, class_weights)
        if gamma < 0:
            raise ConfigError(
                f"The focal loss got gamma {gamma} (DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.FOCAL_GAMMA); "
                "it must be 0 or more."
            )
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = self.log_likelihood(logits, labels)
        # above 0, where a power below 1 has an infinite slope
        doubt = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).tiny)
        weights = self.pixel_weights(labels)
        return _ratio((weights * doubt**self.gamma * losses).sum(), weights.sum())


class DiceLoss(nn.Module):
    """``mean_c (1 - 2 sum_i p_ic y_ic / (sum_i p_ic^2 + sum_i y_ic))`` (V-Net, arXiv 1606.04797).

    p_ic is the softmax probability of class c at pixel i, y_ic is 1 where c is the true class and
    0 elsewhere; the mean is over the classes that the batch holds.
    """

    def __init__(self, ignore_value: int = 255):
        super().__init__()
        self.ignore_value = ignore_value

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        probabilities, labels, is_valid = _flatten(logits, labels, self.ignore_value)
        probabilities = probabilities * is_valid
        sizes = _sizes(probabilities, labels, is_valid)
        hits = probabilities.gather(0, labels[None])[0]
        common = torch.zeros_like(sizes).index_add(0, labels, hits)
        overlap = 2 * common / (probabilities.square().sum(dim=1) + sizes).clamp(min=1e-12)
        return _mean_of_present(1 - overlap, sizes)


class LovaszSoftmax(nn.Module):
    """Lovász extension of the Jaccard loss, mean over the classes present (arXiv 1705.08790).

    Equations 8 to 11 with all pixels of the batch as one image: for class c the errors
    ``m_i = |y_ic - p_ic|`` are sorted from large to small and weighted by what the Jaccard loss
    grows by when pixel i joins the wrong ones before it.
    """

    def __init__(self, ignore_value: int = 255):
        super().__init__()
        self.ignore_value = ignore_value

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        probabilities, labels, is_valid = _flatten(logits, labels, self.ignore_value)
        losses = []
        for number, probability in enumerate(probabilities):
            is_class = ((labels == number) & is_valid).to(probability.dtype)
            # an ignored pixel has no error, so it stands last and weighs nothing
            errors = (is_class - probability).abs() * is_valid
            errors, order = errors.sort(descending=True)
            losses.append((errors * _jaccard_steps(is_class[order])).sum())
        return _mean_of_present(torch.stack(losses), _sizes(probabilities, labels, is_valid))


# Name (LOSSES) -> builder(ignored label, class weights or None, DEEPFUSE_D2.MODEL.SEM_SEG_HEAD)
PIXEL_LOSSES: dict[str, Callable[[int, Tensor | None, CfgNode], nn.Module]] = {
    "cross_entropy": lambda ignored, weights, keys: CrossEntropy(ignored, weights),
    "dice": lambda ignored, weights, keys: DiceLoss(ignored),
    "focal": lambda ignored, weights, keys: FocalLoss(ignored, weights, gamma=keys.FOCAL_GAMMA),
    "lovasz": lambda ignored, weights, keys: LovaszSoftmax(ignored),
    "ohem": lambda ignored, weights, keys: OhemCrossEntropy(
        ignored, weights, probability=keys.OHEM_PROBABILITY, min_kept=keys.OHEM_MIN_KEPT
    ),
}


class SemSegLosses(nn.Module):
    """Several losses of one map of logits, each with its weight.

    Example:
        >>> losses = SemSegLosses({"cross_entropy": (CrossEntropy(), 1.0), "dice": (DiceLoss(), 2)})
        >>> sorted(losses(torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long)))
        ['cross_entropy', 'dice']
    """

    @configurable
    def __init__(self, losses: Mapping[str, tuple[nn.Module, float]]):
        """
        Args:
            losses: name -> (loss of logits and labels, its weight).
        """
        super().__init__()
        self.losses = nn.ModuleDict({name: loss for name, (loss, _) in losses.items()})
        self.weights = {name: float(weight) for name, (_, weight) in losses.items()}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        head, keys = cfg.MODEL.SEM_SEG_HEAD, cfg.DEEPFUSE_D2.MODEL.SEM_SEG_HEAD
        weights = _class_weights(keys.CLASS_WEIGHTS, head.NUM_CLASSES)
        losses = {}
        for entry in keys.LOSSES:
            if len(entry) != 2 or entry[0] not in PIXEL_LOSSES or not entry[1] > 0:
                raise ConfigError(
                    f"DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.LOSSES holds {entry!r}; each entry is a pair "
                    f"of a name, one of {list(PIXEL_LOSSES)}, and a weight above 0."
                )
            losses[entry[0]] = (PIXEL_LOSSES[entry[0]](head.IGNORE_VALUE, weights, keys), entry[1])
        if not losses:
            raise ConfigError(
                "DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.LOSSES is empty; give pairs of a name, one of "
                f'{list(PIXEL_LOSSES)}, and a weight, such as [["cross_entropy", 1.0]].'
            )
        return {"losses": losses}

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """(N, K, H, W) float32 and (N, H, W) int64 -> weighted scalars by name."""
        return {
            name: self.weights[name] * loss(logits, labels) for name, loss in self.losses.items()
        }


def image_level_loss(logits: Tensor, labels: Tensor, ignore_value: int) -> Tensor:
    """Binary cross-entropy of "class k is in the image", mean over images and classes.

    Images without a pixel that counts are left out.

    Args:
        logits: (N, K) float32.
        labels: (N, H, W) int64, the classes of the pixels.
        ignore_value: label of the pixels that do not count.
    """
    is_valid = (labels != ignore_value).flatten(1)
    present = torch.zeros_like(logits).scatter_reduce(
        1, torch.where(is_valid, labels.flatten(1), 0), is_valid.to(logits.dtype), "amax"
    )
    counts = is_valid.any(dim=1, keepdim=True).to(logits.dtype).expand_as(logits)
    losses = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
    return _ratio((losses * counts).sum(), counts.sum())


def _class_weights(values: list[float], num_classes: int) -> Tensor | None:
    if not values:
        return None
    if len(values) != num_classes or min(values) < 0 or max(values) == 0:
        raise ConfigError(
            f"DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS has {len(values)} values from "
            f"{min(values)} to {max(values)}; give one for each of the {num_classes} classes "
            "(MODEL.SEM_SEG_HEAD.NUM_CLASSES), 0 or more and not all 0, or [] for equal weights."
        )
    return torch.tensor(values, dtype=torch.float32)


def _ratio(total: Tensor, weight: Tensor) -> Tensor:
    """total / weight; 0, with its gradient, where there is no weight (`total` is 0 then)."""
    return total / torch.where(weight > 0, weight, 1.0)


def _flatten(logits: Tensor, labels: Tensor, ignore_value: int) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax (K, P), labels (P,) with 0 where ignored, and (P,) whether a pixel counts."""
    labels = labels.flatten()
    is_valid = labels != ignore_value
    probabilities = logits.softmax(dim=1).transpose(0, 1).flatten(1)
    return probabilities, torch.where(is_valid, labels, 0), is_valid


def _sizes(probabilities: Tensor, labels: Tensor, is_valid: Tensor) -> Tensor:
    """(K,) pixels of each class."""
    sizes = torch.zeros(len(probabilities), dtype=torch.long, device=labels.device)
    return sizes.index_add(0, labels, is_valid.long()).to(probabilities.dtype)


def _mean_of_present(losses: Tensor, sizes: Tensor) -> Tensor:
    is_present = (sizes > 0).to(losses.dtype)
    return _ratio((losses * is_present).sum(), is_present.sum())


def _jaccard_steps(is_class: Tensor) -> Tensor:
    """Growth of the Jaccard loss of a class as pixels, in this order, become wrong one by one."""
    # a step is a difference of nearly equal numbers: among a million pixels float32 has one digit
    is_class, dtype = is_class.double(), is_class.dtype
    size = is_class.sum()
    left = size - is_class.cumsum(0)
    union = size + (1 - is_class).cumsum(0)
    jaccard = 1 - left / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]]).to(dtype)
