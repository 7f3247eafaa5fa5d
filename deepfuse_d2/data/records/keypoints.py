"""Keypoints of annotation files: their numbers, names, and which of them are mirror images."""

import re
from collections.abc import Sequence
from math import isfinite
from typing import Any

__all__ = ["clean_keypoints", "flip_pairs", "keypoint_names"]

_SIDES = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def clean_keypoints(raw: Any) -> list[float] | None:
    """x, y, visibility of each; positions of pixels become coordinates, as in detectron2.

    None for what is no list of numbers by threes.
    """
    try:
        if len(raw) % 3:
            return None
        values = [float(value) for value in raw]
    except (TypeError, ValueError, OverflowError):
        return None
    if not isfinite(sum(values)):
        return None
    return [v if place % 3 == 2 else v + 0.5 for place, v in enumerate(values)]


def keypoint_names(categories: Sequence[Any]) -> list[str]:
    """Names that the first category with keypoints gives them; [] where none does."""
    for category in categories:
        names = category.get("keypoints") if isinstance(category, dict) else None
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return names if len(set(names)) == len(names) else []
    return []


def flip_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Those that change places in a mirror, by "left" and "right", or "l" and "r", in their names.

    Example:
        >>> flip_pairs(["nose", "left_eye", "right_eye"])
        [('left_eye', 'right_eye')]
    """
    pairs = []
    for name in names:
        other = _SIDES.sub(lambda m: _as(m[0], _OTHER[m[0].lower()]), name)
        if other != name and other in names and (other, name) not in pairs:
            pairs.append((name, other))
    return pairs


def _as(model: str, word: str) -> str:
    """`word` in capitals where `model` is."""
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word
