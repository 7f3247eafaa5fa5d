"""From a file to named tensors: unwrapped, recognised, renamed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError
from .expectations import checked_metadata, expectations_of
from .safe_load import METADATA_KEY, load_file
from .sources.table import Source, recognise

__all__ = ["Weights", "read_weights"]

# Under these names training scripts keep the state dict among other things.
_WRAPPERS = ("model", "state_dict", "model_state", "weights", "blobs")
# torch's own wrappers of a model; whatever lies inside is the model.
_TORCH_PREFIXES = ("module.", "_orig_mod.")
# Where training scripts keep the network whose names we know.
_NETWORK_PREFIXES = ("", "backbone.", "encoder.", "model.", "model.backbone.")


@dataclass
class Weights:
    """What a weights file holds.

    Args:
        state: tensors by the names of detectron2's and our modules: full, or relative to the
            bottom-up network.
        origin: what they are, for messages: the name of a source, or "" for names of no source.
        expects: config keys and values the weights fix; see expectations.py.
        renamed: whether `state` has been renamed from the names of a source, now or when the file
            was written. Then every part of the bottom-up network is known.
        original: the same tensors under the names of the file, if renaming changed them just now.
        unused: names in the file of tensors outside the network that was recognised.
        rest: everything else the file holds: iteration, state of the optimizer, ...
    """

    state: dict[str, Tensor]
    origin: str = ""
    expects: dict[str, Any] = field(default_factory=dict)
    renamed: bool = False
    original: dict[str, Tensor] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)


def read_weights(path: str | Path) -> Weights:
    """Return the weights in a file; see :func:`load_file` for what can be read.

    Raises: WeightsError: as there, or the file holds no tensors.
    """
    loaded = load_file(path)
    metadata = loaded.pop(METADATA_KEY, None)
    state, rest = _unwrap(loaded)
    tensors = {k: _tensor(v, k, path) for k, v in state.items() if _is_numeric(v)}
    # detectron's zoo keeps the momentum of the optimizer among the weights
    tensors = {k: v for k, v in tensors.items() if not k.endswith("_momentum")}
    if not tensors:
        raise WeightsError(
            f"{path} holds no tensors by name; its keys are {', '.join(map(str, loaded))[:200]}."
        )
    for prefix in _TORCH_PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    if metadata is not None:
        origin, expects = checked_metadata(metadata, str(path))
        return Weights(tensors, origin, expects, renamed=bool(origin), rest=rest)
    return _recognised(tensors, rest)


def _recognised(tensors: dict[str, Tensor], rest: dict[str, Any]) -> Weights:
    for prefix in _NETWORK_PREFIXES:
        inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        source: Source | None = recognise(inside)
        if source is not None:
            state = source.rename(inside)
            return Weights(
                state,
                source.name,
                expectations_of(source),
                renamed=True,
                original={} if state.keys() <= inside.keys() else inside,
                unused=[name for name in tensors if not name.startswith(prefix)],
                rest=rest,
            )
    return Weights(tensors, rest=rest)


def _unwrap(loaded: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dict, and what lies around it."""
    rest: dict[str, Any] = {}
    state: Mapping[str, Any] = loaded
    inner = True
    while inner:
        inner = next((w for w in _WRAPPERS if isinstance(state.get(w), Mapping)), None)
        if inner:
            rest |= {key: value for key, value in state.items() if key != inner}
            state = state[inner]
    return dict(state), rest


def _is_numeric(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray, np.generic))


def _tensor(value: Any, name: str, path: str | Path) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    # torch knows the byte order of the machine only
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    try:
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except TypeError as error:
        raise WeightsError(f"{path}: {name} cannot be a tensor: {error}") from error
