"""What a bottom-up network says of itself: its stages, and the networks inside a wrapper.

Learning rates by layer, freezing, activation checkpointing, analysis and composite backbones ask
here; nobody matches names of attributes or of stages. A network answers by methods, looked up on
its class (detectron2's ResNet has a list of modules called ``stages``):

    stages() -> list[Stage]             in order, the stem first; every one with its parameters
    children_backbones() -> dict        of a wrapper: attribute path -> network inside
    run_stage(name, x) -> Tensor        where it runs stage by stage; see by_stages.py

For detectron2's own networks, and for others that keep its conventions, this file answers:

- ResNet, RegNet and their kind: the children called like features (``res2``, ``s1``) are stages;
- Swin: what a feature is called after, with the merging of patches that comes before it;
- ViT, MViT and their kind: the entries of the longest list of modules are stages.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.swin import SwinTransformer
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid
from torch import nn

from ...config.flatten import flatten
from ...config.look_up import look_up
from ...errors import ConfigError

__all__ = [
    "Stage",
    "child_builder",
    "children_backbones",
    "freeze_stages",
    "names_of_swin",
    "networks_of",
    "stages_of",
]


@dataclass(frozen=True)
class Stage:
    """A stretch of a network.

    Args:
        name: by which DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES calls it, "stem" for the first.
            Stretches that are checkpointed together share it.
        depth: 1 for the stem, more for what comes later. Layers of one depth learn at one rate
            (DEEPFUSE_D2.SOLVER.LAYER_DECAY); MODEL.BACKBONE.FREEZE_AT = d freezes depths 1 to d.
        parts: the modules, and parameters outside of modules, that it consists of.
    """

    name: str
    depth: int
    parts: tuple[nn.Module | nn.Parameter, ...]

    def parameters(self) -> Iterator[nn.Parameter]:
        for part in self.parts:
            if isinstance(part, nn.Module):
                yield from part.parameters()
            else:
                yield part

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return tuple(part for part in self.parts if isinstance(part, nn.Module))


def stages_of(network: Backbone) -> list[Stage]:
    """Stages of a network that wraps no other, from the image on; see the top of this file."""
    # of the class: in detectron2's ResNet, an attribute of this name hides the method
    own = getattr(type(network), "stages", None)
    if callable(own):
        return own(network)
    if isinstance(network, SwinTransformer):
        return _of_swin(network)
    return _by_feature_names(network) or _by_longest_list(network)


def children_backbones(backbone: nn.Module) -> Mapping[str, Backbone]:
    """Networks inside a wrapper (a neck, two scales, a composite) by their paths; {} otherwise."""
    own = getattr(type(backbone), "children_backbones", None)
    if callable(own):
        return own(backbone)
    if isinstance(backbone, SimpleFeaturePyramid):
        return {"net": backbone.net}
    # what NECK_REGISTRY asks of an entry, and what detectron2's FPN does
    bottom_up = getattr(backbone, "bottom_up", None)
    return {"bottom_up": bottom_up} if isinstance(bottom_up, nn.Module) else {}


def networks_of(backbone: nn.Module) -> dict[str, Backbone]:
    """The networks that wrap no other, by their paths in `backbone`: {"": backbone} for such a one.

    Example:
        >>> list(networks_of(FPN(TwoScaleBackbone(resnet, another), ["res2"], 256)))
        ['bottom_up.bottom_up', 'bottom_up.half_scale']
    """
    children = children_backbones(backbone)
    if not children:
        return {"": backbone}
    return {
        f"{path}.{inner}".rstrip("."): network
        for path, child in children.items()
        for inner, network in networks_of(child).items()
    }


def freeze_stages(network: Backbone, freeze_at: int) -> None:
    """Stop stages of depth 1 to `freeze_at` from learning; their batch norms use what they have."""
    for stage in stages_of(network):
        if stage.depth > freeze_at:
            continue
        for parameter in stage.parameters():
            parameter.requires_grad_(False)
        for module in stage.modules:
            FrozenBatchNorm2d.convert_frozen_batchnorm(module)


def child_builder(cfg: CfgNode, key: str, wrapper: Callable) -> Callable[..., Backbone]:
    """The builder of the network inside the wrapper that `wrapper` builds.

    Args:
        key: names it; where it is empty, MODEL.NECK.BOTTOM_UP does, as long as that is not
            `wrapper` itself: a wrapper below a neck has to say what is inside.
    """
    own_key, name = key, flatten(cfg)[key]
    if not name:
        name, key = cfg.MODEL.NECK.BOTTOM_UP, f"MODEL.NECK.BOTTOM_UP (as {key} is empty)"
    builder = look_up(BACKBONE_REGISTRY, name, key)
    if builder in (wrapper, BACKBONE_REGISTRY.get("build_neck_backbone")):
        raise ConfigError(
            f'{key} = "{name}" is no bottom-up network; {wrapper.__name__} needs one in {own_key}, '
            'such as "build_resnet_backbone".'
        )
    return builder


def _by_feature_names(network: nn.Module) -> list[Stage]:
    """Stages that are children by the names of features; what comes before the first is the stem.

    What comes after the last belongs to it.
    """
    names = [name for name in getattr(network, "_out_feature_channels", {}) if name != "stem"]
    children = dict(network.named_children())
    row = {name: children[name] for name in names if name in children}
    return _with_rest(network, row, names=list(row)) if row else []


def names_of_swin(network: SwinTransformer) -> list[str]:
    """Names of the stages behind the stem: "p0", ... of detectron2's own, "res2", ... of ours."""
    return getattr(network, "stage_names", [f"p{index}" for index in range(len(network.layers))])


def _of_swin(network: SwinTransformer) -> list[Stage]:
    stem = [network.patch_embed] + ([network.absolute_pos_embed] if network.ape else [])
    stages = [Stage("stem", 1, tuple(stem))]
    for index, (name, layer) in enumerate(zip(names_of_swin(network), network.layers, strict=True)):
        parts = [*layer.blocks]
        if index:
            parts.append(network.layers[index - 1].downsample)
        if index in network.out_indices:
            parts.append(getattr(network, f"norm{index}"))
        stages.append(Stage(name, index + 2, tuple(parts)))
    return stages


def _by_longest_list(network: nn.Module) -> list[Stage]:
    lists = {
        name: module
        for name, module in network.named_children()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1
    }
    if not lists:
        return [Stage("stem", 1, (network,))]
    name = max(lists, key=lambda name: len(lists[name]))
    row = {f"{name}.{index}": module for index, module in lists[name].named_children()}
    return _with_rest(network, row, names=list(row))


def _with_rest(network: nn.Module, row: Mapping[str, nn.Module], names: list[str]) -> list[Stage]:
    """The modules of `row` as stages; what stands before them is the stem, what after, the last."""
    within = {id(p) for module in row.values() for p in module.parameters()}
    order = [id(p) for p in network.parameters()]
    first = next((i for i, key in enumerate(order) if key in within), len(order))
    before = set(order[:first])
    stem, last = [], []
    # direct parameters, and children; a list that holds the row is gone through one by one
    rest = list(network.parameters(recurse=False))
    for child in network.children():
        entries = child.children() if any(m in row.values() for m in child.children()) else [child]
        rest += [entry for entry in entries if entry not in list(row.values())]
    for part in rest:
        own = [part] if isinstance(part, nn.Parameter) else list(part.parameters())
        if own:
            (stem if id(own[0]) in before else last).append(part)
    stages = [Stage("stem", 1, tuple(stem))]
    for depth, name in enumerate(names, 2):
        parts = (row[name], *last) if name == names[-1] else (row[name],)
        stages.append(Stage(name, depth, parts))
    return stages
