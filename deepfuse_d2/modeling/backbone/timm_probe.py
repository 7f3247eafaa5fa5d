"""What a timm model says about itself when a small image passes through it.

timm declares strides and channels; it does not declare which image sizes a model takes, whether a
map of an odd image has ceil(H / stride) rows, or which parameters a map depends on.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import ConfigError

__all__ = [
    "ImageSizes",
    "drop_unused",
    "find_image_sizes",
    "find_parts",
    "find_row",
    "find_stages",
    "find_taps",
    "runs_by_rows",
]

_FEATURE_OF_STRIDE = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}
_REQUIRED_STRIDES = {8, 16, 32}

# Multiples that image sizes may be restricted to, each with sizes that show it. Windows of 7 or 8
# cells at stride 32 need 224 and 256. Two sizes, so that the one size of a network is no multiple.
_PROBES = (
    (1, ((70, 101), (33, 65))),
    (32, ((64, 96), (96, 128))),
    (224, ((224, 448), (448, 224))),
    (256, ((256, 512), (512, 256))),
)


class ImageSizes(NamedTuple):
    """Sizes a model takes: all multiples of `multiple`, or `only` one; `example` is one of them."""

    multiple: int
    only: tuple[int, int] | None
    example: tuple[int, int]


def find_taps(name: str, body: nn.Module, out_features: Sequence[str]) -> dict[str, int]:
    """Feature name -> timm's index of it, of the asked features ("res2".."res5"; none means all).

    A map of stride 2 comes first as "stem", where timm gives one.
    """
    info = body.feature_info
    # Of several maps of one stride the last is the deepest.
    index_of = dict(zip(info.reduction(), info.out_indices, strict=True))
    if not set(index_of) >= _REQUIRED_STRIDES:
        raise ConfigError(
            f'The timm model "{name}" (MODEL.TIMM.NAME) gives maps of the strides '
            f"{info.reduction()}; a bottom-up network needs 4, 8, 16, 32, or at least 8, 16, 32. "
            "Choose a network of stages, e.g. a resnet, convnext or efficientnet."
        )
    known = {f: index_of[s] for s, f in _FEATURE_OF_STRIDE.items() if s in index_of}
    unknown = [f for f in out_features if f not in known]
    if unknown:
        raise ConfigError(
            f'MODEL.TIMM.OUT_FEATURES asks for {unknown}; the timm model "{name}" has '
            f"{list(known)}, of the strides {[s for s in _FEATURE_OF_STRIDE if s in index_of]}."
        )
    taps = {"stem": index_of[2]} if 2 in index_of else {}
    return taps | {f: i for f, i in known.items() if not out_features or f in out_features}


def find_image_sizes(
    name: str,
    body: nn.Module,
    strides: Sequence[int],
    arguments: Mapping[str, Any],
    create: Callable[..., nn.Module],
) -> ImageSizes:
    """Sizes `body` takes, found by trying.

    Args:
        name: of the model, for the message.
        strides: of the maps `body` gives.
        arguments: it was created with; their ``img_size`` is tried last.
        create: makes the model with more keyword arguments.

    Raises:
        ConfigError: if it takes none of the sizes tried; with what would make it take them.
    """
    problem = ""
    for multiple, sizes in _PROBES:
        problems = [_problem(body, strides, size) for size in sizes]
        if not any(problems):
            return ImageSizes(multiple, None, sizes[0])
        if multiple == 32:
            problem = next(p for p in problems if p)
    if "img_size" in arguments:
        only = _pair(arguments["img_size"])
        problem = _problem(body, strides, only)
        if not problem:
            return ImageSizes(1, only, only)
    raise ConfigError(
        f'The timm model "{name}" (MODEL.TIMM.NAME) does not take images of any size: {problem} '
        + _advice(body, strides, create)
    )


def _advice(body: nn.Module, strides: Sequence[int], create: Callable[..., nn.Module]) -> str:
    """The argument that helps, found by trying it."""
    for argument, value in (("strict_img_size", False), ("dynamic_img_size", True)):
        try:
            flexible = create(body.feature_info.out_indices, **{argument: value})
        except ConfigError:
            continue
        if not _problem(flexible, strides, (64, 96)):
            return f"It does with MODEL.TIMM.ARGS \"[{{'{argument}': {value}}}]\"."
    try:
        create(body.feature_info.out_indices, img_size=body.pretrained_cfg["input_size"][1:])
    except ConfigError:
        return "Choose another model, e.g. a convnext or pvt_v2."
    return (
        "It takes one size, to which smaller images are padded; build it for your largest with "
        "MODEL.TIMM.ARGS \"[{'img_size': [height, width]}]\"; or choose another model, "
        "e.g. a convnext or pvt_v2."
    )


def _problem(body: nn.Module, strides: Sequence[int], size: tuple[int, int]) -> str:
    """Why `body` cannot do with images of `size`; "" if it can."""
    try:
        with torch.no_grad():
            features = _pass(body, size)
    # Models say in many ways that a size does not suit them.
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        return f"at {size[0]} x {size[1]} it says: {reason}."
    rows_and_columns = slice(1, 3) if getattr(body, "output_fmt", None) == "NHWC" else slice(2, 4)
    found = [tuple(feature.shape[rows_and_columns]) for feature in features]
    due = [tuple(-(-length // stride) for length in size) for stride in strides]
    if found != due:
        return f"at {size[0]} x {size[1]} its maps of strides {list(strides)} are {found}."
    return ""


def find_stages(body: nn.Module, taps: Sequence[str], size: tuple[int, int]) -> dict[str, int]:
    """Parameter name -> stage of detectron2's numbering: 1 for the stem, 2 for res2, ...

    A parameter belongs to the first map that depends on it; those no map depends on are missing.

    Args:
        taps: names of the maps in the order `body` gives them; "stem" for one of stride 2.
        size: of an image that `body` takes.
    """
    parameters = {n: p for n, p in body.named_parameters() if p.requires_grad}
    stage_of: dict[str, int] = {}
    with torch.enable_grad():
        features = _pass(body, size)
        for tap, feature in zip(taps, features, strict=True):
            stage = 1 if tap == "stem" else int(tap.removeprefix("res"))
            gradients = torch.autograd.grad(
                feature.sum(), list(parameters.values()), retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    stage_of.setdefault(name, stage)
    if "stem" not in taps:
        stage_of |= dict.fromkeys(_in_stem(body, stage_of), 1)
    return stage_of


def _in_stem(body: nn.Module, stage_of: Mapping[str, int]) -> list[str]:
    """Parameters of the first stage that stand in the module of the first convolution."""
    convs = body.pretrained_cfg.get("first_conv") or ()
    convs = (convs,) if isinstance(convs, str) else convs
    first = min(stage_of.values())
    names = [name for name, stage in stage_of.items() if stage == first]
    # timm's wrappers flatten "stem.0" to "stem_0", or put all under "model" or "body". Where all of
    # a network stands in one module ("body.conv1"), the next name down says more.
    for depth in (1, 2):
        modules = tuple("_".join(conv.split(".")[:depth]) for conv in convs)
        stem = [
            name
            for name in names
            if re.sub(r"^(model|body)\.", "", name).replace(".", "_").startswith(modules)
        ]
        if len(stem) < len(names):
            return stem
    return []


def find_parts(
    body: nn.Module, stage_of: Mapping[str, int], prefix: str = ""
) -> dict[int, list[nn.Module | nn.Parameter]]:
    """Stage -> the largest modules in `body` that are of this stage alone, and what is outside.

    A list of modules counts as its entries: nothing calls it.
    """
    parts: dict[int, list[nn.Module | nn.Parameter]] = defaultdict(list)
    for name, parameter in body.named_parameters(recurse=False):
        if prefix + name in stage_of:
            parts[stage_of[prefix + name]].append(parameter)
    for name, child in body.named_children():
        inner = f"{prefix}{name}."
        found = {stage_of[inner + n] for n, _ in child.named_parameters() if inner + n in stage_of}
        if len(found) == 1 and not isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            parts[found.pop()].append(child)
        else:
            for stage, more in find_parts(child, stage_of, inner).items():
                parts[stage] += more
    return parts


def find_row(body: nn.Module, stage_of: Mapping[str, int]) -> dict[str, list[str]]:
    """Stage ("stem", "res2", ...) -> names of the modules that make it, one after the other.

    A guess by the order in which they stand in `body`, to be tried by :func:`runs_by_rows`. Modules
    without parameters belong to the stage before a tapped map, the one behind otherwise.
    """
    tapped = set(getattr(body, "return_layers", ()))
    row: dict[str, list[str]] = {}
    waiting: list[str] = []
    for name, module in _in_order(body):
        stages = {
            stage_of[f"{name}.{parameter}"]
            for parameter, _ in module.named_parameters()
            if f"{name}.{parameter}" in stage_of
        }
        waiting.append(name)
        if not stages and name not in tapped:
            continue
        stage = max(stages, default=max((_number(s) for s in row), default=1))
        key = "stem" if stage == 1 else f"res{stage}"
        if stage == min(set(stage_of.values()) - {1}, default=1) and key not in row:
            # what pools the stem's result is part of the stem, as in detectron2's networks
            row.setdefault("stem", []).extend(waiting[:-1])
            waiting = waiting[-1:]
        row.setdefault(key, []).extend(waiting)
        waiting = []
    return {stage: names for stage, names in row.items() if names}


def _number(stage: str) -> int:
    return 1 if stage == "stem" else int(stage.removeprefix("res"))


def _in_order(body: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that timm runs one after the other, if it does."""
    if hasattr(body, "return_layers"):
        yield from body.named_children()
        return
    children = dict(body.named_children())
    # timm's wrappers hold the network as their only child
    prefix, model = (
        ("", body) if len(children) > 1 else next((f"{n}.", m) for n, m in children.items())
    )
    lists = [m for m in model.children() if isinstance(m, (nn.Sequential, nn.ModuleList))]
    longest = max(lists, key=len, default=None)
    for name, child in model.named_children():
        if child is longest:
            yield from ((f"{prefix}{name}.{i}", m) for i, m in child.named_children())
        elif any(True for _ in child.parameters()):
            yield f"{prefix}{name}", child


@torch.no_grad()
def runs_by_rows(
    body: nn.Module, row: Mapping[str, Sequence[str]], taps: Sequence[str], size: tuple[int, int]
) -> bool:
    """Whether the modules of `row`, run one after the other, give the maps that `body` gives.

    Args:
        taps, size: see :func:`find_stages`.
    """
    training = body.training
    body.eval()
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0), device="cpu")
    image = image.to(next(body.parameters()))
    # of a network without memory, shapes are all that can be compared
    same = torch.equal if image.device.type != "meta" else lambda a, b: a.shape == b.shape
    try:
        expected = dict(zip(taps, body(image), strict=True))
        x, found = image, {}
        for stage, names in row.items():
            for name in names:
                x = body.get_submodule(name)(x)
            found[stage] = x
        return all(
            stage == "stem" or same(found[stage], feature) for stage, feature in expected.items()
        )
    # modules that are not run one after the other do not fit in many ways
    except Exception:
        return False
    finally:
        body.train(training)


def drop_unused(body: nn.Module, used: Collection[str]) -> None:
    """Take out of `body` what stands in a row of layers and has none of the parameters `used`.

    timm builds some networks (EfficientNet, MobileNet) to their end, whatever maps are asked for.
    Unused parameters elsewhere are frozen.
    """
    for row_name, row in list(body.named_modules()):
        if not isinstance(row, nn.Sequential):
            continue
        for name, layer in row.named_children():
            names = [f"{row_name}.{name}.{parameter}" for parameter, _ in layer.named_parameters()]
            if names and not any(parameter in used for parameter in names):
                row._modules[name] = nn.Identity()
    for name, parameter in body.named_parameters():
        if name not in used:
            parameter.requires_grad_(False)


def _pass(body: nn.Module, size: tuple[int, int]) -> list[Tensor]:
    """Maps of an empty image, in evaluation mode: nothing is remembered, no random number drawn."""
    training = body.training
    body.eval()
    try:
        return list(body(torch.zeros(1, 3, *size)))
    finally:
        body.train(training)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
