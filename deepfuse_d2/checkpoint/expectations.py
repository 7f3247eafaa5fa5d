"""Which images, and which placement of strides, weights were trained with; held against a model.

An expectation is a mapping from config keys to values, e.g. ``{"INPUT.FORMAT": "RGB"}``. It comes
from a row of the table of sources or out of a converted file. Weights in a model that feeds them
other images load without a complaint and train to less, so a difference is an error.
"""

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from detectron2.layers import CNNBlockBase
from torch import nn

from ..errors import WeightsError
from .sources.table import SOURCES, Source

__all__ = ["check_expectations", "checked_metadata", "expectations_of", "found_in_model", "to_yaml"]

_FORMAT = "INPUT.FORMAT"
_MEAN = "MODEL.PIXEL_MEAN"
_STD = "MODEL.PIXEL_STD"
_STRIDE = "MODEL.RESNETS.STRIDE_IN_1X1"


def expectations_of(source: Source) -> dict[str, Any]:
    """Return the config keys that the weights of `source` fix; without those that do not matter."""
    values = {
        _FORMAT: source.format,
        _MEAN: None if source.pixel_mean is None else list(source.pixel_mean),
        _STD: None if source.pixel_std is None else list(source.pixel_std),
        _STRIDE: source.stride_in_1x1,
    }
    return {key: value for key, value in values.items() if value is not None} | dict(
        source.settings
    )


def found_in_model(model: nn.Module) -> dict[str, Any]:
    """Return what `model` was built with, of the same keys; without those it does not tell."""
    found: dict[str, Any] = {_FORMAT: getattr(model, "input_format", None)}
    for key, name in ((_MEAN, "pixel_mean"), (_STD, "pixel_std")):
        tensor = getattr(model, name, None)
        found[key] = None if tensor is None else tensor.flatten().tolist()
    # bottlenecks: detectron2's, and ours with several 3x3 convolutions (Res2Net)
    blocks = [m for m in model.modules() if isinstance(m, CNNBlockBase) and hasattr(m, "conv3")]
    if any(block.conv1.stride != (1, 1) for block in blocks):
        found[_STRIDE] = True
    elif any(_first_3x3(block).stride != (1, 1) for block in blocks):
        found[_STRIDE] = False
    for module in model.modules():
        found |= getattr(module, "settings_of_weights", {})
    return {key: value for key, value in found.items() if value is not None}


def check_expectations(expected: Mapping[str, Any], found: Mapping[str, Any], origin: str) -> None:
    """Raise an error that names every key of `found` that differs from `expected`.

    Args:
        expected, found: config keys and values; keys in one of them alone are not compared.
        origin: what the weights are, for the message.
    """
    wrong = [
        f"{key} is {_short(found[key])}, must be {_short(value)}"
        for key, value in expected.items()
        if key in found and not _same(value, found[key])
    ]
    if wrong:
        raise WeightsError(
            f"{origin} weights do not fit this config: {'; '.join(wrong)}. Set these keys in the "
            "yaml or on the command line; deepfuse convert writes them as a yaml."
        )


def checked_metadata(metadata: Any, path: str) -> tuple[str, dict[str, Any]]:
    """Return name of the source and expectations out of what a file says about itself."""
    kinds = {_FORMAT: _is_format, _MEAN: _is_color, _STD: _is_color, _STRIDE: _is_bool}
    settings = (item for source in SOURCES for item in source.settings.items())
    kinds |= {key: _is_like(value) for key, value in settings}
    try:
        origin, expected = metadata["source"], dict(metadata["expects"])
        good = isinstance(origin, str) and all(kinds[k](v) for k, v in expected.items())
    except (TypeError, KeyError, ValueError):
        good = False
    if not good:
        raise WeightsError(
            f"{path} says in a way that cannot be understood what its weights expect: {metadata}. "
            "It was written by another version of deepfuse_d2, or by hand; convert the original "
            "file again with deepfuse convert."
        )
    return origin, expected


def to_yaml(expected: Mapping[str, Any], weights: str, origin: str) -> str:
    """Return a config file with MODEL.WEIGHTS and what these weights expect."""
    import yaml

    tree: dict[str, Any] = {}
    for key, value in {"MODEL.WEIGHTS": weights, **expected}.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=100)
    return f"# What these weights expect ({origin}). Name this file in a config's _BASE_.\n{text}"


def _first_3x3(block: CNNBlockBase) -> nn.Module:
    return block.convs[0] if hasattr(block, "convs") else block.conv2


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, list):
        return len(expected) == len(found) and np.allclose(expected, found, rtol=1e-4)
    return expected == found


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(f'{x:.7g}' for x in value)}]"  # float32 as it was written
    return str(value)


def _is_format(value: Any) -> bool:
    return value in ("RGB", "BGR")


def _is_like(example: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, type(example))


def _is_color(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, numbers.Real) for x in value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)
