"""Random weights that keep an R-CNN as busy as trained ones do, for timing without a checkpoint.

As initialised, the activations of a residual network with frozen norms grow from block to block,
and all classes of all boxes score alike, so that either none or thousands of them are kept.
"""

import math

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn

__all__ = ["calibrated_random_weights", "copy_fitting"]

_NORMS = (FrozenBatchNorm2d, nn.modules.batchnorm._BatchNorm)


@torch.no_grad()
def calibrated_random_weights(
    model: GeneralizedRCNN, inputs: list[dict], *, candidates: int = 400, spread: float = 2.0
) -> None:
    """Change random weights of `model` so that, on `inputs`, it is as busy as a trained model.

    Norms take the statistics of what they get. Class scores spread, with so much background that
    about `candidates` pairs of a box and a class pass the score threshold in an image. Mask
    probabilities spread around one half.

    Args:
        inputs: batch of images as the model takes it.
        candidates: per image, before non-maximum suppression.
        spread: standard deviation of the class and mask logits.
    """
    model.eval()
    _with_hooks(model, inputs, {m: _take_statistics for m in model.modules() if _is_norm(m)})
    predictors = model.roi_heads.box_predictor
    # a cascade has one for each stage
    predictors = list(predictors) if isinstance(predictors, nn.ModuleList) else [predictors]
    count = candidates * len(inputs)

    def spread_classes(module: nn.Linear, args: tuple[Tensor]) -> None:
        logits = nn.functional.linear(args[0], module.weight)
        centre = logits.mean(dim=0)
        scale = spread / (logits - centre).std()
        module.weight.mul_(scale)
        module.bias.copy_(-centre * scale)
        logits = (logits - centre) * scale
        module.bias[-1] += _background(logits, predictors[0].test_score_thresh, count)

    def spread_masks(module: nn.Conv2d, args: tuple[Tensor]) -> None:
        logits = nn.functional.conv2d(args[0], module.weight)
        scale = spread / logits.std()
        module.weight.mul_(scale)
        module.bias.copy_(-logits.mean(dim=(0, 2, 3)) * scale)

    _with_hooks(model, inputs, {p.cls_score: spread_classes for p in predictors})
    if getattr(model.roi_heads, "mask_on", False):
        _with_hooks(model, inputs, {model.roi_heads.mask_head.predictor: spread_masks})


def copy_fitting(source: nn.Module, target: nn.Module) -> int:
    """Copy the tensors of `source` that `target` has by name and shape; returns how many."""
    wanted = target.state_dict()
    fitting = {
        name: tensor
        for name, tensor in source.state_dict().items()
        if name in wanted and wanted[name].shape == tensor.shape
    }
    target.load_state_dict(fitting, strict=False)
    return len(fitting)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _NORMS)


def _take_statistics(module: nn.Module, args: tuple[Tensor]) -> None:
    variance, mean = torch.var_mean(args[0].float(), dim=(0, 2, 3), correction=0)
    module.running_mean.copy_(mean)
    # a channel that hardly varies would be blown up, and rounding errors with it
    module.running_var.copy_(variance.clamp(min=0.01 * variance.mean()))


def _with_hooks(model: nn.Module, inputs: list[dict], hooks: dict) -> None:
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks.items()]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()


def _background(logits: Tensor, threshold: float, count: int) -> float:
    """What to add to the last logit, so that `count` of the other probabilities pass."""
    low, high = -math.log(1e6), math.log(1e6)
    for _ in range(40):
        middle = (low + high) / 2
        shifted = torch.cat([logits[:, :-1], logits[:, -1:] + middle], dim=1)
        passing = (shifted.softmax(dim=1)[:, :-1] > threshold).sum()
        low, high = (middle, high) if passing > count else (low, middle)
    return middle
