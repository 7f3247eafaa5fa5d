"""Running a network stage by stage: what composite backbones need of their children.

A network that can be run so has, beside ``stages()`` of protocol.py,

    run_stage(name, x) -> Tensor        "stem" takes the image; maps are (N, C, H, W)
    feature(name, x, size) -> Tensor    what `forward` would give for x, the result of that stage,
                                        of an image of `size`; x itself where it says nothing

Stages follow one another: each takes what the one before gave, and nothing else. For detectron2's
ResNet, RegNet and Swin, whose ``forward`` is such a loop, this file has both functions.

Swin alone also runs a stage in two steps: :func:`enter_stage` merges patches, to the channels and
size of the stage, and :func:`run_stage` with `entered` goes on with its blocks.
"""

from collections.abc import Sequence

from detectron2.modeling import Backbone, ResNet
from detectron2.modeling.backbone.regnet import AnyNet
from detectron2.modeling.backbone.swin import SwinTransformer
from torch import Tensor, nn

from ...errors import ConfigError
from .protocol import children_backbones, names_of_swin, stages_of

__all__ = [
    "check_enters_stages",
    "check_runs_by_stages",
    "drop_norms_of_features",
    "drop_stages",
    "enter_stage",
    "feature_of",
    "levels_of",
    "run_stage",
]

# forwards that run the children called like the stages one after the other
_LOOPS = (ResNet.forward, AnyNet.forward)


def check_runs_by_stages(network: Backbone, key: str) -> None:
    """Raise ConfigError, with the reason, where `network` cannot be run stage by stage.

    Args:
        key: that chose the network.
    """
    reason = _why_not(network)
    if reason:
        raise ConfigError(
            f"{key} builds a {type(network).__name__}, which cannot be run stage by stage: {reason}"
            " Choose a network whose stages follow one another: a ResNet, ResNeXt, Res2Net, DLA, "
            "MobileNet-v2, RegNet or Swin, or a timm model of this kind, e.g. a convnext."
        )


def check_enters_stages(network: Backbone, key: str) -> None:
    """Raise ConfigError where a stage of `network` has no entry of its own to connect behind."""
    if not isinstance(network, SwinTransformer):
        raise ConfigError(
            f"{key} builds a {type(network).__name__}, whose stages have no merging of patches of "
            'their own; MODEL.COMPOSITE.CONNECT_TO "blocks" is for Swin, so choose "stage".'
        )


def _why_not(network: Backbone) -> str:
    kind = type(network)
    if children_backbones(network):
        return "it is a wrapper of other networks."
    # a network that may turn out not to: of timm, or with inputs of a stage beside the last result
    own = getattr(kind, "why_not_by_stages", None)
    if own is not None:
        return own(network) if callable(own) else own
    if hasattr(kind, "run_stage") or kind.forward in _LOOPS:
        return ""
    if issubclass(kind, SwinTransformer):
        return ""
    return "it has no run_stage(name, x), and its forward is not one that is known."


def run_stage(network: Backbone, name: str, x: Tensor, entered: bool = False) -> Tensor:
    """The result (N, C, H, W) of a stage for that of the stage before, or for the image.

    Args:
        entered: `x` is what :func:`enter_stage` gave.
    """
    if hasattr(type(network), "run_stage"):
        return network.run_stage(name, x)
    if isinstance(network, SwinTransformer):
        return _run_swin(network, name, x if entered else enter_stage(network, name, x))
    return getattr(network, name)(x)


def enter_stage(network: SwinTransformer, name: str, x: Tensor) -> Tensor:
    """What the blocks of a stage take, for the result (N, C, H, W) of the stage before.

    A layer of detectron2's computes it at its end, for the next one; here it is computed once more
    when the next one begins, as the connections of a composite come in between.
    """
    index = 0 if name == "stem" else names_of_swin(network).index(name)
    if not index:
        return x
    height, width = x.shape[-2:]
    tokens = x.flatten(2).transpose(1, 2)
    tokens = network.layers[index - 1].downsample(tokens, height, width)
    return _as_map(tokens, (height + 1) // 2, (width + 1) // 2)


def feature_of(network: Backbone, name: str, x: Tensor, size: tuple[int, int]) -> Tensor:
    """What `network` gives under the name of a stage whose result is `x`.

    Args:
        size: (height, width) of the image.
    """
    if hasattr(type(network), "feature"):
        return network.feature(name, x, size)
    if isinstance(network, SwinTransformer):
        index = names_of_swin(network).index(name)
        normed = getattr(network, f"norm{index}")(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2).contiguous()
    return x


def levels_of(network: Backbone) -> list[tuple[str, ...]]:
    """Names of the stages, those of one depth together: [("stem",), ("res2",), ...].

    A composite is connected between levels: those of MobileNet-v2, which has two stages at the
    strides 16 and 32 each, are the same as a ResNet's.
    """
    levels: dict[int, list[str]] = {}
    for stage in stages_of(network):
        levels.setdefault(stage.depth, []).append(stage.name)
    return [tuple(levels[depth]) for depth in sorted(levels)]


def drop_stages(network: Backbone, names: list[str]) -> None:
    """Take the modules and parameters of stages out of `network`, which then cannot run them."""
    for stage in stages_of(network):
        if stage.name not in names:
            continue
        for module in list(network.modules()):
            for child, part in list(module.named_children()):
                if any(part is dropped for dropped in stage.modules):
                    setattr(module, child, nn.Identity())
            for child, parameter in list(module.named_parameters(recurse=False)):
                if any(parameter is dropped for dropped in stage.parts):
                    module.register_parameter(child, None)
    # detectron2's networks keep their stages in plain lists as well
    if isinstance(network, ResNet):
        network.stages = [getattr(network, name) for name in network.stage_names]
    elif isinstance(network, AnyNet):
        network.stages_and_names = [(getattr(network, n), n) for _, n in network.stages_and_names]


def drop_norms_of_features(network: Backbone, names: Sequence[str]) -> bool:
    """Take out what only :func:`feature_of` uses, where nobody takes the features of `names`.

    Returns: whether there was something.
    """
    norms = []
    if isinstance(network, SwinTransformer):
        norms = [f"norm{i}" for i, name in enumerate(names_of_swin(network)) if name in names]
    norms = [norm for norm in norms if hasattr(network, norm)]
    for norm in norms:
        setattr(network, norm, nn.Identity())
    return bool(norms)


def _run_swin(network: SwinTransformer, name: str, x: Tensor) -> Tensor:
    """The stem of detectron2's Swin, or the blocks of a stage."""
    if name == "stem":
        x = network.patch_embed(x)
        if network.ape:
            x = x + nn.functional.interpolate(
                network.absolute_pos_embed, size=x.shape[-2:], mode="bicubic"
            )
        return network.pos_drop(x.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(x)
    height, width = x.shape[-2:]
    layer = network.layers[names_of_swin(network).index(name)]
    return _as_map(layer(x.flatten(2).transpose(1, 2), height, width)[0], height, width)


def _as_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(N, H W, C) -> (N, C, H, W)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)
