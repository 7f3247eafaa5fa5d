"""Models of timm as feature extractors, with the mistakes of a user answered.

timm (https://github.com/huggingface/pytorch-image-models) is the extra "timm" of this package; it
is imported when a model is created.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from torch import nn

from ...errors import ConfigError, WeightsError

__all__ = ["create_timm_model", "import_timm"]


def create_timm_model(
    name: str,
    *,
    pretrained: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """``timm.create_model(name, features_only=True, ...)``: image -> list of feature maps.

    Args:
        name: one of ``timm.list_models()``, with or without the tag of its weights
            ("resnet50.a1_in1k"), or a location timm understands ("hf-hub:...", "local-dir:...").
        pretrained: let timm fetch the weights, or take them from its cache.
        arguments: more keyword arguments of ``timm.create_model``.

    Raises:
        ConfigError: for an unknown name, argument or tag, a model without feature maps, or a
            missing timm.
        WeightsError: for weights that cannot be fetched.
    """
    timm = import_timm()
    _check_name(timm, name)
    arguments = dict(arguments or {})
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained, **arguments)
    # timm, its models and the clients that fetch raise whatever they like.
    except Exception as error:
        if pretrained:
            # Without weights the same call tells whether they or the arguments are at fault.
            create_timm_model(name, arguments=arguments)
            raise _weights_error(timm, name, error) from error
        raise _model_error(timm, name, arguments, error) from error


def import_timm():
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            "build_timm_backbone needs the package timm, which is not installed: "
            "pip install 'timm>=1.0.31', or this package with its extra: pip install -e '.[timm]'."
        ) from error
    return timm


def _check_name(timm, name: str) -> None:
    if ":" in name or timm.is_model(name):
        return
    known = timm.list_models()
    near = difflib.get_close_matches(name.split(".")[0], known, n=6, cutoff=0.5)
    raise ConfigError(
        f'MODEL.TIMM.NAME = "{name}" is none of the {len(known)} models of timm '
        f"{timm.__version__}. "
        + (f"Did you mean: {', '.join(near)}? " if near else "")
        + "timm.list_models('*part*') lists those with a part in their name."
    )


def _weights_error(timm, name: str, error: Exception) -> WeightsError:
    if "No pretrained weights" in str(error):
        tagged = timm.list_models(f"{name[:5]}*", pretrained=True)
        near = difflib.get_close_matches(name, tagged, n=6, cutoff=0.3)
        return WeightsError(
            f'timm has no pretrained weights of "{name}" (MODEL.TIMM.NAME). '
            + (f"It has them of: {', '.join(near)}. " if near else "")
            + "timm.list_models(pretrained=True) lists all; or set MODEL.TIMM.PRETRAINED False."
        )
    return WeightsError(
        f'The pretrained weights of the timm model "{name}" could not be fetched: {_short(error)} '
        "Without a network, fetch them elsewhere (the file model.safetensors of this model) and "
        "name the file in MODEL.TIMM.CHECKPOINT, or copy timm's cache (HF_HOME); or start from "
        "random weights with MODEL.TIMM.PRETRAINED False."
    )


def _model_error(timm, name: str, arguments: dict[str, Any], error: Exception) -> ConfigError:
    if "tag" in str(error) and "." in name:
        architecture = name.split(".")[0]
        tags = timm.list_models(f"{architecture}.*", pretrained=True)
        return ConfigError(
            f'MODEL.TIMM.NAME = "{name}" has an unknown tag of weights; choose one of: '
            + (", ".join(tags) or f"{architecture} (without a tag; it has no weights)")
        )
    if "features_only" in str(error) and "argument" not in str(error):
        return ConfigError(
            f'The timm model "{name}" (MODEL.TIMM.NAME) gives no feature maps (features_only): '
            f"{_short(error)} Choose a network of stages, e.g. a resnet, convnext or efficientnet."
        )
    return ConfigError(
        f'timm cannot build "{name}" (MODEL.TIMM.NAME) with the arguments {arguments} '
        f"(MODEL.TIMM.ARGS, DROP_PATH): {_short(error)}"
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) < 300 else text[:300] + " ...").rstrip(".") + "."
