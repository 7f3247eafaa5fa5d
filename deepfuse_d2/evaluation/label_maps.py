"""Predicted label maps: from logits or as they are, checked, on the CPU."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import ConfigError
from ..structures.best_class import best_class

__all__ = ["NOTHING", "check_classes", "label_map"]

# Name of the column behind the classes: pixels for which no class is predicted.
NOTHING = "nothing"


def label_map(
    output: torch.Tensor | np.ndarray,
    *,
    classes: int,
    ignore_label: int,
    shape: tuple[int, int],
    image: str,
) -> tuple[np.ndarray, int]:
    """Return the predicted class of each pixel, ``classes`` where none is predicted.

    Args:
        output: logits (C, H, W), or class indices (H, W) where ``ignore_label`` says "none".
        classes: number of classes C.
        ignore_label: the data set's.
        shape: (height, width) of the ground truth.
        image: its name, for messages.

    Returns:
        (H, W) integers 0 .. C, and the number of pixels whose best logit is not a number.

    Raises:
        ConfigError: the channels or the values do not fit the classes.
        ValueError: another shape.
    """
    if output.ndim not in (2, 3) or tuple(output.shape[-2:]) != tuple(shape):
        raise ValueError(
            f"{image}: sem_seg has the shape {tuple(output.shape)}, the ground truth "
            f"{tuple(shape)} (height, width); expected logits (C, H, W) or a label map (H, W), "
            "resized to the size of the original image."
        )
    if output.ndim == 3:
        if output.shape[0] != classes:
            raise ConfigError(
                f"{image}: sem_seg has {output.shape[0]} channels, but the data set has {classes} "
                "classes; check MODEL.SEM_SEG_HEAD.NUM_CLASSES and the weights."
            )
        best, highest = best_class(torch.as_tensor(output).detach())
        return best.cpu().numpy(), int(highest.isnan().sum())
    labels = output.detach().cpu().numpy() if isinstance(output, torch.Tensor) else output
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{image}: a label map of {labels.dtype}; expected integers (logits have three axes)."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        known = (labels >= 0) & (labels < classes)
        wrong = labels[~known & (labels != ignore_label)]
        if wrong.size:
            raise ConfigError(
                f"{image}: the label map holds the value {wrong[0]}; the data set has the classes "
                f"0 .. {classes - 1}, and {ignore_label} for no class. Class indices (train ids) "
                "are expected, not label ids."
            )
        labels = np.where(known, labels, classes)
    return labels, 0


def check_classes(classes: np.ndarray, count: int, image: str, key: str) -> None:
    """Raise a ConfigError that names the config `key` unless all indices are in 0 .. count - 1."""
    if classes.size and not 0 <= classes.min() <= classes.max() < count:
        raise ConfigError(
            f"{image}: predicted class indices from {classes.min()} to {classes.max()}, but the "
            f"data set has {count} classes (0 .. {count - 1}); check {key} and the weights."
        )
