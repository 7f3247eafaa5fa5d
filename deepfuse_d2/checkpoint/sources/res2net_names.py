"""Res2Net's and DLA's public weights under the names of our backbones.

The authors' files and timm's have the same names: ``layer1.0.bns.2.weight`` is
``res2.0.convs.2.norm.weight`` here. mmdetection calls the stem ``stem.0`` to ``stem.7``. v1b
has three convolutions in the stem and a pool before the convolution of a shortcut.
"""

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["is_dla", "is_res2net", "rename_dla", "rename_res2net"]

_UNUSED = re.compile(r"^fc\.|num_batches_tracked$")

# convolution and norm of the stem, wherever they lie in a Sequential
_STEM = {
    "conv1.0": "conv1_1", "conv1.1": "conv1_1.norm",
    "conv1.3": "conv1_2", "conv1.4": "conv1_2.norm",
    "conv1.6": "conv1_3", "bn1": "conv1_3.norm",
    "stem.0": "conv1_1", "stem.1": "conv1_1.norm",
    "stem.3": "conv1_2", "stem.4": "conv1_2.norm",
    "stem.6": "conv1_3", "stem.7": "conv1_3.norm",
}  # fmt: skip
_PLAIN_STEM = {"conv1": "conv1", "bn1": "conv1.norm"}


def is_res2net(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are the authors', timm's or mmdetection's for a Res2Net or Res2NeXt."""
    return {"layer1.0.convs.0.weight", "layer1.0.bns.0.weight"} <= state.keys()


def rename_res2net(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of :class:`~deepfuse_d2.modeling.Res2Net` for the same tensors, no classifier."""
    deep = "conv1.0.weight" in state or "stem.0.weight" in state
    stem = _STEM if deep else _PLAIN_STEM
    # in v1b, the pool of a shortcut takes place 0
    pooled = "layer1.0.downsample.2.weight" in state
    shortcut = {"1": "", "2": ".norm"} if pooled else {"0": "", "1": ".norm"}

    def rename(name: str) -> str:
        name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
        name = re.sub(
            r"downsample\.(\d)", lambda m: "shortcut" + shortcut.get(m[1], f".{m[1]}"), name
        )
        if not name.startswith("res"):
            module, _, last = name.rpartition(".")
            return f"stem.{stem[module]}.{last}" if module in stem else name
        return _norms(name)

    return {rename(name): value for name, value in state.items() if not _UNUSED.search(name)}


def is_dla(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are the authors' or timm's for a DLA of bottlenecks, plain or Res2Net's."""
    return {"base_layer.0.weight", "level2.root.conv.weight", "level2.tree1.conv3.weight"} <= (
        state.keys()
    )


def rename_dla(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of :class:`~deepfuse_d2.modeling.DLA` for the same tensors, no classifier.

    The authors' trees of trees have a projection that is never used; it is left out.
    """
    renamed = {}
    for name, value in state.items():
        projection = re.match(r"(.*)\.project\.", name)
        never_used = projection and f"{projection[1]}.tree1.root.conv.weight" in state
        if not never_used and not _UNUSED.search(name):
            renamed[_dla_name(name)] = value
    return renamed


_DLA_STEM = {
    "base_layer.0": "conv1", "base_layer.1": "conv1.norm",
    "level0.0": "conv2", "level0.1": "conv2.norm",
    "level1.0": "conv3", "level1.1": "conv3.norm",
}  # fmt: skip


def _dla_name(name: str) -> str:
    module, _, last = name.rpartition(".")
    if module in _DLA_STEM:
        return f"stem.{_DLA_STEM[module]}.{last}"
    name = re.sub(r"^level([2-5])\.", r"res\1.0.", name)
    name = name.replace("project.0.", "project.").replace("project.1.", "project.norm.")
    name = name.replace("root.conv.", "root.").replace("root.bn.", "root.norm.")
    # the one 3x3 convolution of a plain DLA is the only one of a block of scale 1
    return _norms(name.replace(".conv2.", ".convs.0.").replace(".bn2.", ".bns.0."))


def _norms(name: str) -> str:
    name = re.sub(r"\bbns\.(\d+)\.", r"convs.\1.norm.", name)
    return re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
