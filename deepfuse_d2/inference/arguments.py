"""What a Predictor may be asked for; what is wrong is named with what is allowed."""

import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode

from ..errors import ConfigError

__all__ = ["check_arguments", "checked_config", "checked_opts"]


def _is_count(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1


def _is_size(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_count, value))


def _is_score(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= value <= 1


_BOOL = (lambda x: isinstance(x, bool), "True or False")
_COUNT = (_is_count, "a whole number, 1 or more")
# argument -> (what is allowed, in words)
_ALLOWED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "score_threshold": (lambda x: x is None or _is_score(x), "a number in 0 .. 1, or None"),
    "batch_size": _COUNT,
    "tile": (lambda x: x is None or _is_size(x), "(height, width) in pixels, or None"),
    "tile_overlap": (lambda x: _is_count(x) or x == 0, "a whole number of pixels, 0 or more"),
    "augment": _BOOL,
    "optimize": _BOOL,
    "dtype": (lambda x: isinstance(x, (str, torch.dtype)), 'a name such as "float32" or "auto"'),
    "compile": (
        lambda x: isinstance(x, (bool, str)) or callable(x),
        "True, False or a backend of torch.compile",
    ),
    "engine": (lambda x: isinstance(x, str), 'a name such as "auto", "native" or "openvino"'),
    "workers": _COUNT,
    "max_pixels": _COUNT,
    "errors": (lambda x: x in ("raise", "return"), '"raise" or "return"'),
}


def check_arguments(**arguments: Any) -> None:
    """Raise where an argument of :class:`.Predictor` has a wrong type or value.

    Raises: ConfigError.
    """
    for name, value in arguments.items():
        is_allowed, words = _ALLOWED[name]
        if not is_allowed(value):
            raise ConfigError(f"Predictor({name}={value!r}): give {words}.")
    tile, overlap = arguments["tile"], arguments["tile_overlap"]
    if tile is not None and overlap >= min(tile):
        raise ConfigError(
            f"Predictor's tile_overlap is {overlap} pixels; it must be smaller than both sides of "
            f"tile, {tuple(tile)}."
        )
    if tile is not None and arguments["augment"]:
        raise ConfigError("Predictor takes tile or augment, not both.")
    if arguments["score_threshold"] is not None and not arguments["optimize"]:
        raise ConfigError("Predictor(score_threshold=...) needs optimize=True.")


def checked_opts(opts: Any) -> list[str]:
    """KEY VALUE pairs as a list."""
    if isinstance(opts, (str, Mapping)) or not isinstance(opts, Iterable):
        raise ConfigError(
            f"Predictor(opts={opts!r}): give a list of KEY, VALUE, KEY, VALUE, ..., such as "
            '["MODEL.DEVICE", "cpu"].'
        )
    return list(opts)


def checked_config(cfg: Any) -> CfgNode:
    """A copy of a config that may be changed, with our keys."""
    from ..config.keys import add_deepfuse_config

    if not isinstance(cfg, CfgNode):
        raise ConfigError(
            f"Predictor was given a {type(cfg).__name__} for its config; give the name of a yaml "
            "file, or a CfgNode as load_config returns it."
        )
    cfg = cfg.clone()
    cfg.defrost()
    add_deepfuse_config(cfg)
    return cfg
