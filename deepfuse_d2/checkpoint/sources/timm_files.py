"""Files of weights for models of timm: MODEL.TIMM.CHECKPOINT, by the way of all weights."""

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...errors import WeightsError
from ..loading import load_into
from ..reading import Weights, read_weights

__all__ = ["load_timm_weights"]


def load_timm_weights(
    network: nn.Module, path: str, name: str, arguments: Mapping[str, Any], min_match: float
) -> None:
    """Load a file into a network of features of the timm model `name`, checked and reported.

    Args:
        path: of the file; under timm's names, or those of the model's authors if timm knows them.
        arguments: with which timm built the model.
        min_match: part of the tensors, 0..1, that the file must fill.

    Raises: WeightsError: see :func:`..loading.load_into`.
    """
    try:
        weights = read_weights(path)
        try:
            load_into(network, weights, path, min_match=min_match)
        except WeightsError:
            # perhaps as the authors of the model name them, or for another size of images
            tensors = weights.original or weights.state
            converted = _in_timms_form(name, tensors, arguments)
            if converted is None or _are_same(converted, tensors):
                raise
            again = Weights(converted, names=frozenset(converted))
            load_into(network, again, path, min_match=min_match)
    except WeightsError as error:
        where = f'MODEL.TIMM.CHECKPOINT, for the timm model "{name}"'
        raise type(error)(f"{where}: {error}") from error


def _in_timms_form(
    name: str, state: Mapping[str, Tensor], arguments: Mapping[str, Any] | None = None
) -> dict[str, Tensor] | None:
    """Return weights of a model's authors, or for another size of images, as the model takes them.

    None where timm knows no such form of this model.
    """
    import timm

    model = timm.create_model(name, **dict(arguments or {}))
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        return dict(convert(dict(state), model))
    except Exception:  # of weights of another model, whatever comes
        return None


def _are_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[name] is second[name] for name in first)
