"""CBNet's and CBNetV2's public detectors under the names of our composite, necks and heads.

Both are mmdetection's, and a file is a whole detector. Version 1 has one module for all networks:
the lead's stages are ``backbone.layer1``, the assistants' ``second_layer1`` and ``third_layer1``,
of which the third looks at the image first; the stem is one for all; ``eb_second_conv1`` and
``bneb_second_bn1`` (its code doubles the "bn") lead from the second network into stage 1 of the
next. Version 2 has ``backbone.cb_modules.0`` (the assistant), ``cb_modules.1`` (the lead), and
``cb_linears.<stage>.<source - stage>``, stages counted from 0.

Version 1 is of mmdetection 1, whose background is the first class; detectron2's is the last. The
former also decodes boxes and aligns regions otherwise, by half a pixel; nothing here undoes that.

Version 2 of Swin has the same two networks, under the names of detectron2's Swin, and
``cb_linears.<stage>.<source - stage>`` without norms, where the widths of both differ.
"""

import re
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from .mmdetection_heads import background_last, rename_head
from .res2net_names import is_res2net, rename_res2net
from .swin_names import rename_swin
from .torchvision_names import rename_torchvision_resnet

__all__ = [
    "is_cbnet",
    "is_cbnet_v2",
    "is_cbnet_v2_swin",
    "rename_cbnet",
    "rename_cbnet_v2",
    "rename_cbnet_v2_swin",
]

_NETWORKS = {"third_": 0, "second_": 1, "": 2}
_V1 = re.compile(r"(third_|second_|)(layer\d\..*|conv1\..*|bn1\..*)")
_V1_CONNECTION = re.compile(r"(?:bn)?eb_(third|second)_(conv|bn)(\d)\.(.*)")
_V2 = re.compile(r"cb_modules\.(\d)\.(.*)")
_V2_CONNECTION = re.compile(r"cb_linears\.(\d)\.(\d)\.(\d)\.(.*)")
_SWIN_CONNECTION = re.compile(r"cb_linears\.(\d)\.(\d)\.(weight|bias)")
# A norm of the lead, whose convolution has been taken out.
_DEAD = re.compile(r"^cb_modules\.1\.bn1\.")


def is_cbnet(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of CBNet's ResNets, version 1, alone or in a detector."""
    return any(f"{p}second_layer1.0.conv1.weight" in state for p in ("", "backbone."))


def is_cbnet_v2(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of CBNetV2's ResNets or Res2Nets, alone or in a detector."""
    return any(f"{p}cb_modules.0.layer1.0.conv1.weight" in state for p in ("", "backbone."))


def is_cbnet_v2_swin(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of CBNetV2's Swins, alone or in a detector."""
    return any(f"{p}cb_modules.0.patch_embed.proj.weight" in state for p in ("", "backbone."))


def rename_cbnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of our composite (style ahlc, prune 0), neck and heads for the same tensors."""
    renamed = {}
    # with two networks there is no third, and the second is the first
    offset = 0 if any("third_layer1." in name for name in state) else 1
    inner = {m[2]: m[2] for name in state if (m := _V1.fullmatch(_within(name)))}
    ours = {old: new for new, old in rename_torchvision_resnet(inner).items()}
    for name, value in _without_counters(state):
        own = _within(name)
        if network := _V1.fullmatch(own):
            is_stem = not network[2].startswith("layer")
            number = 0 if is_stem else _NETWORKS[network[1]] - offset
            renamed[f"backbones.{number}.{ours[network[2]]}"] = value
        elif connection := _V1_CONNECTION.fullmatch(own):
            number = _NETWORKS[f"{connection[1]}_"] - offset + 1
            stage = f"res{int(connection[3]) + 1}"
            norm = "" if connection[2] == "conv" else ".norm"
            renamed[f"connections.{number}.{stage}.{stage}.conv{norm}.{connection[4]}"] = value
        else:
            renamed[rename_head(name)] = background_last(name, value)
    return renamed


def rename_cbnet_v2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of our composite (style dhlc), neck and heads for the same tensors."""
    renamed = {}
    inner = {m[2]: m[2] for name in state if (m := _V2.fullmatch(_within(name)))}
    rename: Callable = rename_res2net if is_res2net(inner) else rename_torchvision_resnet
    ours = {old: new for new, old in rename(inner).items()}
    for name, value in _without_counters(state):
        own = _within(name)
        if _DEAD.match(own):
            continue
        if network := _V2.fullmatch(own):
            renamed[f"backbones.{network[1]}.{ours[network[2]]}"] = value
        elif connection := _V2_CONNECTION.fullmatch(own):
            to = int(connection[1]) + 2
            norm = "" if connection[3] == "0" else ".norm"
            source = to + int(connection[2])
            place = f"connections.1.res{to}.res{source}.conv{norm}.{connection[4]}"
            renamed[place] = value
        else:
            renamed[rename_head(name)] = value
    return renamed


def rename_cbnet_v2_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of our composite (style dhlc, connected to blocks), neck and heads for the same."""
    renamed = {}
    for name, value in state.items():
        own = _within(name)
        if network := _V2.fullmatch(own):
            inner = rename_swin({network[2]: value})
            renamed |= {f"backbones.{network[1]}.{n}": v for n, v in inner.items()}
        elif connection := _SWIN_CONNECTION.fullmatch(own):
            to = int(connection[1]) + 2
            source = to + int(connection[2])
            renamed[f"connections.1.res{to}.res{source}.conv.{connection[3]}"] = value
        else:
            renamed[rename_head(name)] = value
    return renamed


def _within(name: str) -> str:
    return name.removeprefix("backbone.")


def _without_counters(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((n, value) for n, value in state.items() if not n.endswith("num_batches_tracked"))
