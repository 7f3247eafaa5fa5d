"""The authors' FishNet weights (kevin-ssy/FishNet) under our names.

Theirs number the slots of nested lists, so that ``fish.fish.6.1.0.bn2`` is a norm beside the main
path and ``fish.fish.3.0.2`` a convolution of the bridge. Ours keep the numbers of stages and blocks
and name the slots: ``fish.stages.6.transfer.0.conv1.norm``, ``fish.stages.3.conv1``. A norm after a
convolution is stored with it, as everywhere in detectron2.
"""

import re
from collections.abc import Iterable

from torch import Tensor

__all__ = ["is_fishnet", "rename_fishnet"]

# Theirs -> ours; the first that fits is taken. A "*" stands for "weight", "bias", "running_mean"...
_PATTERNS = [
    (
        re.compile(pattern.replace(".", r"\.").replace("#", r"(\d+)").replace("*", r"(\w+)") + "$"),
        to,
    )
    for pattern, to in (
        ("conv#.0.*", r"fish.stem.conv\1.\2"),
        ("conv#.1.*", r"fish.stem.conv\1.norm.\2"),
        ("fish.fish.3.0.0.*", r"fish.stages.3.norm.\1"),
        ("fish.fish.3.0.2.*", r"fish.stages.3.conv1.\1"),
        ("fish.fish.3.0.3.*", r"fish.stages.3.conv1.norm.\1"),
        ("fish.fish.3.1.*", r"fish.stages.3.conv2.\1"),
        ("fish.fish.3.3.0.0.*", r"fish.stages.3.gate.norm.\1"),
        ("fish.fish.3.3.0.3.*", r"fish.stages.3.gate.conv1.\1"),
        ("fish.fish.3.3.0.5.*", r"fish.stages.3.gate.conv2.\1"),
        ("fish.fish.9.3.0.*", r"classifier.norm.\1"),
        ("fish.fish.9.3.2.*", r"classifier.conv1.\1"),
        ("fish.fish.9.3.3.*", r"classifier.conv1.norm.\1"),
        ("fish.fish.9.4.1.*", r"classifier.conv2.\1"),
    )
]
# stage . slot . block . rest; the bridge has its blocks in a slot of its own
_BLOCK = re.compile(r"fish\.fish\.(\d)\.(\d)\.(\d+)\.(.+)$")
_SLOTS = {(3, 2): "main"}
_SLOTS |= {(stage, 0): "main" for stage in range(10) if stage != 3}
_SLOTS |= {(stage, 1): "transfer" for stage in range(4, 10)}
_IN_BLOCK = {
    "bn1": "norm",
    "conv1": "conv1",
    "bn2": "conv1.norm",
    "conv2": "conv2",
    "bn3": "conv2.norm",
    "conv3": "conv3",
    "shortcut.0": "shortcut.norm",
    "shortcut.2": "shortcut.conv",
}


def is_fishnet(state: Iterable[str]) -> bool:
    """Whether the names are those of the authors' FishNet, without a prefix."""
    return {"conv1.0.weight", "fish.fish.0.0.0.conv1.weight", "fish.fish.3.1.weight"} <= set(state)


def rename_fishnet(state: dict[str, Tensor], *, classifier: bool = False) -> dict[str, Tensor]:
    """Names of :class:`deepfuse_d2.modeling.backbone.FishNetBackbone` for the same tensors.

    Args:
        state: the authors' names, without the prefix ``module.``. Unknown names are kept.
        classifier: keep the classifier too, as :class:`~deepfuse_d2.modeling.backbone.FishNet`
            has it.
    """
    renamed = {
        _rename(name): value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    return {
        name: value
        for name, value in renamed.items()
        if classifier or not name.startswith("classifier.")
    }


def _rename(name: str) -> str:
    for pattern, to in _PATTERNS:
        if pattern.match(name):
            return pattern.sub(to, name)
    found = _BLOCK.match(name)
    if found:
        stage, slot, block, rest = int(found[1]), int(found[2]), found[3], found[4]
        layer, _, tensor = rest.rpartition(".")
        if (stage, slot) in _SLOTS and layer in _IN_BLOCK:
            return f"fish.stages.{stage}.{_SLOTS[stage, slot]}.{block}.{_IN_BLOCK[layer]}.{tensor}"
    return name
