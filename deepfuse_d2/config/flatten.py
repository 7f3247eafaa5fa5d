"""A config as one mapping from full keys to plain values."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

__all__ = ["flatten", "plain"]


def flatten(cfg: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Values by full key, of plain types that a checkpoint may hold."""
    flat: dict[str, Any] = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = plain(value)
    return flat


def plain(value: Any) -> Any:
    """`value` as lists, mappings, numbers and text, which json and a checkpoint may hold."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
