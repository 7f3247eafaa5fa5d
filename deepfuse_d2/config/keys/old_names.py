"""Names that keys had in earlier versions: what now stands in DEEPFUSE_D2 stood a level higher.

    SOLVER.OPTIMIZER -> DEEPFUSE_D2.SOLVER.OPTIMIZER

An old name that the config has by itself belongs to whoever added it, and is left alone.
"""

import functools
import logging
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from ..flatten import flatten
from .defaults import defaults, fill_in

__all__ = ["DeepFuseCfgNode", "old_names", "unread_names", "with_current_names"]


@functools.cache
def old_names() -> dict[str, str]:
    """Name that a key had or might have had -> its name."""
    return {key: f"DEEPFUSE_D2.{key}" for key in flatten(defaults().DEEPFUSE_D2)}


def with_current_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A flat config of an earlier version, key -> value, with the names of today."""
    names = {old: new for old, new in old_names().items() if new not in stored}
    return {names.get(key, key): value for key, value in stored.items()}


def unread_names(cfg: CfgNode) -> dict[str, str]:
    """Old names among the keys of `cfg`, which others have set there -> the names that are read."""
    return {old: new for old, new in old_names().items() if _has(cfg, old)}


class DeepFuseCfgNode(CfgNode):
    """A config that understands the old names in what is merged into it, with one warning."""

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> Callable[[], None]:
        fill_in(self)
        return super().merge_from_other_cfg(self._renamed(cfg_other))

    def merge_from_list(self, cfg_list: list[str]) -> Callable[[], None]:
        fill_in(self)
        cfg_list = list(cfg_list)
        names = {key: old_names()[key] for key in cfg_list[0::2] if self._is_old(key)}
        _warn(names)
        cfg_list[0::2] = [names.get(key, key) for key in cfg_list[0::2]]
        return super().merge_from_list(cfg_list)

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        # yacs builds nodes of the root's class from a file, and then compares the classes
        return CfgNode._decode_cfg_value(value)

    def _is_old(self, key: str) -> bool:
        return key in old_names() and not _has(self, key)

    def _renamed(self, given: CfgNode) -> CfgNode:
        names = {
            old: new for old, new in old_names().items() if _has(given, old) and self._is_old(old)
        }
        if not names:
            return given
        given = given.clone()
        # A file of a user's with an old name, on a base of ours with the new one: the user's
        # counts.
        _warn(names, both=[new for new in names.values() if _has(given, new)])
        for old, new in names.items():
            _set(given, new, _pop(given, old))
        return given


def _has(node: Mapping, key: str) -> bool:
    first, _, rest = key.partition(".")
    if not isinstance(node, Mapping) or first not in node:
        return False
    return _has(node[first], rest) if rest else True


def _pop(node: MutableMapping, key: str) -> Any:
    """Take a value out of its node, and nodes that are empty then out of theirs."""
    first, _, rest = key.partition(".")
    if not rest:
        return node.pop(first)
    value = _pop(node[first], rest)
    if not node[first]:
        del node[first]
    return value


def _set(node: MutableMapping, key: str, value: Any) -> None:
    first, _, rest = key.partition(".")
    if rest:
        _set(node.setdefault(first, type(node)()), rest, value)
    else:
        node[first] = value


def _warn(names: Mapping[str, str], both: Sequence[str] = ()) -> None:
    if not names:
        return
    told = [
        f"{old} is now {new}"
        + (" (both are given; the value of the old name is taken)" if new in both else "")
        for old, new in names.items()
    ]
    # the config of an earlier training has them all
    if len(told) > 6:
        told[6:] = [f"and {len(told) - 6} more, each with DEEPFUSE_D2. in front"]
    _warn_once(
        f"Config keys of deepfuse_d2 under old names, which go on working: {'; '.join(told)}."
    )


@functools.cache
def _warn_once(message: str) -> None:
    logging.getLogger(__name__).warning("%s See docs/config.md.", message)
