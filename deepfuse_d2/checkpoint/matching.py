"""Which tensor of a file goes where in a model, by one rule, and what is left over on both sides.

A name of the file belongs to

1. the same name in the model; else
2. the name in the bottom-up network, ``backbone.bottom_up.<name>`` or ``backbone.<name>``; else
3. the only name in the model that ends in ``.<name>``.

Several names under 3, or two tensors for one place, are an error: detectron2's heuristics, which
this replaces, take the longest match.

Where the model holds several networks of one kind (two scales, a composite), one tensor fills its
place in each: under 2, and where a name would be that of the one network that stands in their place
elsewhere (``backbone.bottom_up.res2...`` of a plain detector, with a composite below the neck). A
network of which the file has nothing gets what the first one beside it gets. Under 2, names in
their wrapper count too (``backbones.0.res2...``).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor, nn

from ..errors import WeightsError
from ..layers import DeepFuse

__all__ = ["Match", "copies_in", "deepfuse_names", "match"]

# Counts batches for a way of averaging that nobody uses; old files lack it.
_COUNTER = "num_batches_tracked"
_BOTTOM_UPS = ("backbone.bottom_up.", "backbone.")


@dataclass
class Match:
    """Names, in the order of the model or of the file.

    Args:
        placed: tensors by their names in the model, ready to load; all of the right shape.
        new: in the model, not in the file, as expected: DeepFuse operations, and parts (heads, a
            neck) of which the file has nothing. They start as configured.
        missing: in the model, not in the file, though the file has others of the same part.
        unexpected: in the file, without a place in the model.
        wrong_shape: name in the model, shape in the file, shape in the model.
        bottom_ups: what names in the bottom-up networks begin with; "" if the model has none, and
            the whole model counts as one.
        total: names in the bottom-up networks, without those of DeepFuse operations.
        deepfuse: names of DeepFuse operations in the model, wherever they are built in.
        repeated: name in the file -> its places, where it has several.
        parts: what the names in the file that have a place begin with, up to the first dot.
    """

    placed: dict[str, Tensor]
    new: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    bottom_ups: tuple[str, ...] = ("",)
    total: int = 0
    deepfuse: Set[str] = frozenset()
    repeated: dict[str, list[str]] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()

    @property
    def bottom_up(self) -> str:
        """What names in the first bottom-up network begin with; "" if the model has none."""
        return self.bottom_ups[0]

    def within(self, name: str) -> str | None:
        """The name in its bottom-up network, None outside of one."""
        prefix = next((p for p in self.bottom_ups if name.startswith(p)), None)
        return None if prefix is None else name.removeprefix(prefix)

    @property
    def fraction(self) -> float:
        """Part of the bottom-up network that the file fills, 0..1; 1 if there is none."""
        matched = sum(
            name.startswith(self.bottom_ups) and _counts(name) and name not in self.deepfuse
            for name in self.placed
        )
        return matched / self.total if self.total else 1.0


def match(
    state: Mapping[str, Tensor],
    model_state: Mapping[str, Tensor],
    deepfuse: Set[str] = frozenset(),
    copies: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Match:
    """Find a place in the model for every tensor of a file.

    Args:
        state: the file: names, full or relative to the bottom-up network -> tensors.
        model_state: the model's ``state_dict()``.
        deepfuse: see :func:`deepfuse_names`.
        copies: see :func:`copies_in`.

    Raises: WeightsError: a tensor could go to several places, or two to one.
    """
    bottom_up = next((p for p in _BOTTOM_UPS if any(n.startswith(p) for n in model_state)), "")
    if "backbone." in copies:
        bottom_up = "backbone."
    bottom_ups = _innermost(bottom_up, copies)
    places, unexpected = _places(state, model_state, bottom_ups, copies)

    found = Match({}, unexpected=unexpected, bottom_ups=bottom_ups, deepfuse=deepfuse)
    for name, source in places.items():
        found.repeated.setdefault(source, []).append(name)
    found.parts = frozenset(source.split(".")[0] for source in found.repeated)
    found.repeated = {source: names for source, names in found.repeated.items() if len(names) > 1}
    for name, tensor in model_state.items():
        if name in places:
            ours = state[places[name]]
            if ours.shape == tensor.shape:
                found.placed[name] = ours
            else:
                found.wrong_shape.append((name, tuple(ours.shape), tuple(tensor.shape)))
    # A part is "new" as a whole or not at all.
    parts = {_part(name, bottom_ups, copies) for name in places}
    for name in model_state:
        in_bottom_up = name.startswith(bottom_ups)
        is_deepfuse = name in deepfuse
        if _counts(name):
            found.total += in_bottom_up and not is_deepfuse
            if name not in places:
                is_other = not in_bottom_up and _part(name, bottom_ups, copies) not in parts
                new = is_deepfuse or is_other
                (found.new if new else found.missing).append(name)
    return found


def deepfuse_names(model: nn.Module) -> set[str]:
    """Names of the DeepFuse operations' tensors in the model, which files of a plain network lack.

    DeepFuse is put into networks that were trained without it, and then starts as configured.
    """
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, DeepFuse)
        for name in module.state_dict()
    }


def copies_in(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Wrapper of networks of one kind -> its networks, as what names in them begin with.

    A wrapper says so itself, by ``children_backbones()``; a neck, which has more to do, fuses.
    """
    copies = {}
    for path, module in model.named_modules():
        children = getattr(type(module), "children_backbones", None)
        if callable(children) and not hasattr(module, "fuse"):
            prefix = f"{path}." if path else ""
            copies[prefix] = tuple(f"{prefix}{child}." for child in children(module))
    return copies


def _innermost(prefix: str, copies: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The networks behind `prefix` that wrap no other."""
    if prefix not in copies:
        return (prefix,)
    return tuple(inner for child in copies[prefix] for inner in _innermost(child, copies))


def under_one_prefix(
    state: Mapping[str, Tensor],
    model_state: Mapping[str, Tensor],
    copies: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Return `state` with the prefix that a network of just these names has in the model, or {}.

    Of several networks of one kind, the first that has them.
    """
    if not state:
        return {}
    longest = max((name for name in state if _counts(name)), key=lambda name: name.count("."))
    ends = [name for name in model_state if f".{name}".endswith(f".{longest}")]
    for networks in copies.values():
        own = next((p for p in networks if any(name.startswith(p) for name in ends)), None)
        others = tuple(p for p in networks if p != own)
        ends = [name for name in ends if own is None or not name.startswith(others)]
    if len(ends) != 1:
        return {}
    prefix = ends[0].removesuffix(longest)
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _places(
    state: Mapping[str, Tensor],
    model_state: Mapping[str, Tensor],
    bottom_ups: Sequence[str],
    copies: Mapping[str, Sequence[str]],
) -> tuple[dict[str, str], list[str]]:
    """Names in the model -> names in the file, and names in the file without a place."""
    by_end = defaultdict(list)
    for name in model_state:
        parts = name.split(".")
        for start in range(1, len(parts)):
            by_end[".".join(parts[start:])].append(name)

    places: dict[str, str] = {}
    unexpected = []
    for name in state:
        full = next((p for p in copies if name.startswith(p) and name not in model_state), None)
        if name in model_state:
            candidates = [name]
        elif inner := [f"{p}{name}" for p in (*copies, *bottom_ups) if f"{p}{name}" in model_state]:
            candidates = inner
        elif full is not None:
            rest = name.removeprefix(full)
            within = [f"{p}{rest}" for p in _innermost(full, copies)]
            candidates = [n for n in within if n in model_state]
        else:
            candidates = by_end.get(name, [])
            _check_one(name, candidates)
        if not candidates and _counts(name):
            unexpected.append(name)
        for place in candidates:
            if place in places:
                raise WeightsError(
                    f"{places[place]} and {name} of the weights both belong to {place} of the "
                    "model. Leave one of them out of the file."
                )
            places[place] = name
    for networks in copies.values():
        _fill_empty(networks, places, model_state)
    return places, unexpected


def _fill_empty(
    networks: Sequence[str], places: dict[str, str], model_state: Mapping[str, Tensor]
) -> None:
    """Add to `places` those of networks that have none, as the first network that has some."""
    filled = next((p for p in networks if any(name.startswith(p) for name in places)), None)
    for network in networks:
        if filled is None or any(name.startswith(network) for name in places):
            continue
        for name in model_state:
            source = places.get(f"{filled}{name.removeprefix(network)}")
            if name.startswith(network) and source is not None:
                places[name] = source


def _check_one(name: str, candidates: Sequence[str]) -> None:
    if len(candidates) > 1:
        raise WeightsError(
            f"{name} of the weights could go to {len(candidates)} places in the model: "
            f"{', '.join(candidates[:4])}. Save the weights under full names."
        )


def _counts(name: str) -> bool:
    # anchors were part of detectron2's files once
    return not name.endswith(_COUNTER) and "anchor_generator.cell_anchors" not in name


def _part(name: str, bottom_ups: tuple[str, ...], copies: Mapping[str, Sequence[str]]) -> str:
    """Bottom-up networks, what connects several, neck, or the head: exchanged as a whole."""
    if any(bottom_ups) and name.startswith(bottom_ups):
        return bottom_ups[0]
    wrapper = max((p for p in copies if p and name.startswith(p)), key=len, default="")
    return wrapper or name.split(".")[0]
