"""Which tensor of a file goes where in a model, by one rule, and what is left over on both sides.

A name of the file belongs to

1. the same name in the model; else
2. the name in the bottom-up network, ``backbone.bottom_up.<name>`` or ``backbone.<name>``; else
3. the only name in the model that ends in ``.<name>``.

Several names under 3, or two tensors for one place, are an error: detectron2's heuristics, which
this replaces, take the longest match.
"""

from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..errors import WeightsError
from ..layers import DeepFuse

__all__ = ["Match", "deepfuse_names", "match"]

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
        bottom_up: what names in the bottom-up network begin with; "" if the model has none, and
            the whole model counts as one.
        total: names in the bottom-up network, without those of DeepFuse operations.
        deepfuse: names of DeepFuse operations in the model, wherever they are built in.
    """

    placed: dict[str, Tensor]
    new: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    bottom_up: str = ""
    total: int = 0
    deepfuse: Set[str] = frozenset()

    @property
    def fraction(self) -> float:
        """Part of the bottom-up network that the file fills, 0..1; 1 if there is none."""
        matched = sum(
            name.startswith(self.bottom_up) and _counts(name) and name not in self.deepfuse
            for name in self.placed
        )
        return matched / self.total if self.total else 1.0


def match(
    state: Mapping[str, Tensor],
    model_state: Mapping[str, Tensor],
    deepfuse: Set[str] = frozenset(),
) -> Match:
    """Find a place in the model for every tensor of a file.

    Args:
        state: the file: names, full or relative to the bottom-up network -> tensors.
        model_state: the model's ``state_dict()``.
        deepfuse: see :func:`deepfuse_names`.

    Raises: WeightsError: a tensor could go to several places, or two to one.
    """
    bottom_up = next((p for p in _BOTTOM_UPS if any(n.startswith(p) for n in model_state)), "")
    places, unexpected = _places(state, model_state, bottom_up)

    found = Match({}, unexpected=unexpected, bottom_up=bottom_up, deepfuse=deepfuse)
    for name, tensor in model_state.items():
        if name in places:
            ours = state[places[name]]
            if ours.shape == tensor.shape:
                found.placed[name] = ours
            else:
                found.wrong_shape.append((name, tuple(ours.shape), tuple(tensor.shape)))
    # A part is "new" as a whole or not at all.
    parts = {_part(name, bottom_up) for name in places}
    for name in model_state:
        in_bottom_up = name.startswith(bottom_up)
        is_deepfuse = name in deepfuse
        if _counts(name):
            found.total += in_bottom_up and not is_deepfuse
            if name not in places:
                new = is_deepfuse or (not in_bottom_up and _part(name, bottom_up) not in parts)
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


def under_one_prefix(
    state: Mapping[str, Tensor], model_state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return `state` with the prefix that a network of just these names has in the model, or {}."""
    if not state:
        return {}
    longest = max((name for name in state if _counts(name)), key=lambda name: name.count("."))
    ends = [name for name in model_state if f".{name}".endswith(f".{longest}")]
    if len(ends) != 1:
        return {}
    prefix = ends[0].removesuffix(longest)
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _places(
    state: Mapping[str, Tensor], model_state: Mapping[str, Tensor], bottom_up: str
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
        if name in model_state:
            candidates = [name]
        elif f"{bottom_up}{name}" in model_state:
            candidates = [f"{bottom_up}{name}"]
        else:
            candidates = by_end.get(name, [])
        if len(candidates) > 1:
            raise WeightsError(
                f"{name} of the weights could go to {len(candidates)} places in the model: "
                f"{', '.join(candidates[:4])}. Save the weights under full names."
            )
        if not candidates:
            if _counts(name):
                unexpected.append(name)
        elif candidates[0] in places:
            raise WeightsError(
                f"{places[candidates[0]]} and {name} of the weights both belong to {candidates[0]} "
                "of the model. Leave one of them out of the file."
            )
        else:
            places[candidates[0]] = name
    return places, unexpected


def _counts(name: str) -> bool:
    # anchors were part of detectron2's files once
    return not name.endswith(_COUNTER) and "anchor_generator.cell_anchors" not in name


def _part(name: str, bottom_up: str) -> str:
    """Bottom-up network, neck, or the head: what is exchanged as a whole."""
    if bottom_up and name.startswith(bottom_up):
        return bottom_up
    return name.split(".")[0]
