"""From a file to named tensors: found wherever they lie in it, recognised, renamed.

A file is read as one flat set of names: wrappers (``state_dict``, ``model_ema``, ``teacher``) and
prefixes (``module.``, ``encoder_q.``, ``net.``) are alike what names begin with. A network is
recognised by its tensors under any such beginning, so no list of wrappers is needed. Wrappers of
parts of a network (torch.compile, FSDP, activation checkpointing) stand amid its names and are left
out.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError
from .expectations import checked_metadata, expectations_of
from .safe_load import METADATA_KEY, load_file
from .sources.table import recognise

__all__ = ["Weights", "read_weights", "split_entry"]

# torch's own wrappers of a model; whatever lies inside is the model.
_TORCH_PREFIXES = ("module.", "_orig_mod.")
# What wrappers of a part insert: ``layer1._orig_mod.0.``, ``layer1.0._fsdp_wrapped_module.``.
_INSERTED = re.compile(r"(?:^|(?<=\.))_\w*mod(?:ule)?\.")
# Beginnings that fewer of the tensors share are no network of the file.
_SMALLEST_PART = 0.05
_ENTRY = "?entry="


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
        unused: names of tensors beside the network that was recognised, in the same mapping.
        rest: everything else the file holds: iteration, state of the optimizer, ...
        entry: what the names of these tensors begin with in the file, without the last dot:
            "state_dict.module", or "" for none. ``FILE?entry=<entry>`` reads these.
        names: of the tensors in the file, behind `entry`.
        others: the same file read otherwise, under other beginnings of names: what may fit a model
            better; see :func:`.loading.choose`.
    """

    state: dict[str, Tensor]
    origin: str = ""
    expects: dict[str, Any] = field(default_factory=dict)
    renamed: bool = False
    original: dict[str, Tensor] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)
    entry: str = ""
    names: frozenset[str] = frozenset()
    others: "list[Weights]" = field(default_factory=list, repr=False)

    def copies(self) -> list[str]:
        """Entries of the file that hold the same network once more: an average, a teacher, ..."""
        same = [
            other.entry
            for other in self.others
            if other.entry != self.entry and len(other.names & self.names) >= 0.9 * len(self.names)
        ]
        return list(dict.fromkeys(same))


def split_entry(path: str | Path) -> tuple[str, str | None]:
    """``FILE?entry=ENTRY`` -> FILE, ENTRY; None where no entry is asked for."""
    file, mark, entry = str(path).partition(_ENTRY)
    return (file, entry) if mark and not Path(path).is_file() else (str(path), None)


def read_weights(path: str | Path) -> Weights:
    """Return the weights in a file, as they are best read without knowing the model.

    Args:
        path: of the file, see :func:`load_file` for what can be read; or ``FILE?entry=ENTRY``, to
            read what begins with ``ENTRY.`` alone.

    Raises: WeightsError: as there, or the file (or the entry of it) holds no tensors.
    """
    file, entry = split_entry(path)
    loaded = load_file(file)
    metadata = loaded.pop(METADATA_KEY, None)
    holders: dict[str, tuple[str, ...]] = {}
    tensors: dict[str, Tensor] = {}
    for holder, name, value in _leaves(loaded):
        # detectron's zoo keeps the momentum of the optimizer among the weights
        if _is_numeric(value) and not name.endswith("_momentum"):
            tensors[name], holders[name] = _tensor(value, name, file), holder
    if entry:
        tensors = _below(tensors, f"{entry}.")
    if not tensors:
        where = f"{file} holds no tensors " + (f"below {entry}" if entry else "by name")
        keys = ", ".join(map(str, loaded))[:200]
        raise WeightsError(f"{where}; " + (f"its keys are {keys}." if keys else "it is empty."))

    start = f"{entry}." if entry else ""
    # the mapping with the most tensors, of equals the first
    main = Counter(holders[f"{start}{name}"] for name in tensors).most_common(1)[0][0]
    first = _plain(tensors, "".join(f"{key}." for key in main).removeprefix(start))
    for wrapper in _TORCH_PREFIXES:
        if all(name.startswith(wrapper) for name in first.state):
            first = _plain(tensors, f"{_dotted(first.entry)}{wrapper}")
    rest = _around(loaded, main)
    if metadata is not None:
        first.origin, first.expects = checked_metadata(metadata, file)
        first.renamed, first.rest = bool(first.origin), rest
        return first

    plain = [_plain(tensors, beginning) for beginning in _beginnings(tensors)]
    known = [weights for one in plain if (weights := _recognised(one)) is not None]
    for one in known:
        inside = _dotted(one.entry)
        holder = holders[f"{start}{inside}{next(iter(one.names))}"]
        mapping = "".join(f"{key}." for key in holder).removeprefix(start)
        one.unused = [
            name.removeprefix(mapping)
            for name in tensors
            if name.startswith(mapping) and not name.startswith(inside)
        ]
    known.sort(key=lambda weights: -len(weights.names))  # of equals the first in the file
    first, *others = [*known, first, *(one for one in plain if one.entry != first.entry)]
    first.rest, first.others = rest, others
    for weights in (first, *others):
        weights.entry = ".".join(filter(None, (entry, weights.entry)))
    return first


def _plain(tensors: dict[str, Tensor], beginning: str) -> Weights:
    inside = _below(tensors, beginning)
    return Weights(
        _without_inserted(inside), entry=beginning.removesuffix("."), names=frozenset(inside)
    )


def _without_inserted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what wrappers of parts insert; one around all of them is a beginning."""
    short = {_INSERTED.sub("", name): tensor for name, tensor in tensors.items()}
    is_beginning = all(_INSERTED.match(name) for name in tensors)
    return tensors if is_beginning or len(short) < len(tensors) else short


def _recognised(plain: Weights) -> Weights | None:
    source = recognise(plain.state)
    if source is None:
        return None
    state = source.rename(plain.state)
    return Weights(
        state,
        source.name,
        expectations_of(source),
        renamed=True,
        original={} if state.keys() <= plain.names else plain.state,
        entry=plain.entry,
        names=plain.names,
    )


def _leaves(node: Mapping[Any, Any], holder: tuple[str, ...] = ()) -> Iterator[tuple]:
    """Mapping that holds a value, as its keys from the top; full name of the value; the value."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*holder, str(key)))
        else:
            yield holder, ".".join((*holder, str(key))), value


def _beginnings(tensors: Mapping[str, Tensor]) -> list[str]:
    """What a part of the names, large enough to be a network, begin with: "", "module.", ..."""
    count: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        count.update("".join(f"{part}." for part in parts[:end]) for end in range(len(parts)))
    smallest = max(2, _SMALLEST_PART * len(tensors))
    return [beginning for beginning, number in count.items() if number >= smallest]


def _around(loaded: Mapping[Any, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """What lies beside the mappings on the way to one."""
    rest: dict[str, Any] = {}
    for key in path:
        rest |= {other: value for other, value in loaded.items() if str(other) != key}
        loaded = next(value for other, value in loaded.items() if str(other) == key)
    return rest


def _below(tensors: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(beginning): value
        for name, value in tensors.items()
        if name.startswith(beginning)
    }


def _dotted(entry: str) -> str:
    return f"{entry}." if entry else ""


def _is_numeric(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray, np.generic))


def _tensor(value: Any, name: str, path: str | Path) -> Tensor:
    if isinstance(value, Tensor):
        if value.is_meta:
            raise WeightsError(
                f"{path}: {name} has a shape but no values (device meta); save the network after "
                "its weights were made or loaded."
            )
        if value.is_quantized:
            return value.dequantize()
        return value if value.layout is torch.strided else value.to_dense()
    array = np.asarray(value)
    # torch knows the byte order of the machine only
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    try:
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except TypeError as error:
        raise WeightsError(f"{path}: {name} cannot be a tensor: {error}") from error
