"""What was loaded, as a table and a few names, and what is too little to go on with."""

from collections import Counter
from collections.abc import Sequence

from ..errors import WeightsError
from .matching import Match
from .reading import Weights

__all__ = ["check_complete", "check_match", "describe", "describe_weights"]

# names of a kind that a report shows
_SHOWN = 4


def describe_weights(weights: Weights, path: str) -> str:
    """Return what a file is, what it holds by module, and what it expects of a config."""
    from tabulate import tabulate

    count: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for name, tensor in weights.state.items():
        module = name.split(".")[0]
        count[module] += 1
        numbers[module] += tensor.numel()
    rows = [[module, count[module], f"{numbers[module]:,}"] for module in count]
    rows.append(["all", count.total(), f"{numbers.total():,}"])
    lines = [
        f"{path}: {weights.origin or 'names of no known source, kept as they are'}",
        tabulate(
            rows, headers=["module", "tensors", "numbers"], colalign=("left", "right", "right")
        ),
    ]
    if weights.unused:
        lines.append(f"outside the network, left out: {_first(weights.unused)}")
    dropped = len(weights.original) - len(weights.state)
    if dropped > 0:
        lines.append(f"of the classifier, and counters, left out: {dropped} tensors")
    lines += [f"expects {key} {value}" for key, value in weights.expects.items()]
    return "\n".join(lines)


def describe(match: Match) -> str:
    """Return a table of counts by module, then the first names of all that was not matched."""
    from tabulate import tabulate

    columns = {
        "matched": list(match.placed),
        "new": match.new,
        "missing": match.missing,
        "unexpected": match.unexpected,
        "wrong shape": [name for name, _, _ in match.wrong_shape],
    }
    counts = {
        kind: Counter(_module(name, match) for name in names) for kind, names in columns.items()
    }
    modules = dict.fromkeys(_module(name, match) for names in columns.values() for name in names)
    rows = [[m, *(count[m] or "" for count in counts.values())] for m in modules]
    rows.append(["all", *(len(names) for names in columns.values())])
    lines = [tabulate(rows, headers=["module", *columns], tablefmt="simple")]
    explained = {
        "new": "new, start as configured",
        "missing": "missing in the file, start as configured",
        "unexpected": "unexpected, not used",
    }
    for kind, words in explained.items():
        if columns[kind]:
            lines.append(f"{words}: {_first(columns[kind])}")
    if match.repeated:
        count = sum(map(len, match.repeated.values()))
        first, places = next(iter(match.repeated.items()))
        lines.append(
            f"{len(match.repeated)} tensors fill {count} places, in networks of one kind: {first} "
            f"goes to {', '.join(places)}"
        )
    if match.wrong_shape:
        lines.append(f"wrong shape, start as configured: {_shapes(match.wrong_shape)}")
    return "\n".join(lines)


def check_match(match: Match, path: str, *, min_match: float, renamed: bool) -> None:
    """Raise an error where `match` would start a model from half of its weights.

    Args:
        path: of the file, for the message.
        min_match: part of the tensors of the bottom-up network, 0..1, that the file must fill. At 0
            nothing is checked.
        renamed: whether the names come from the names of a known source. Then a tensor of a block
            that the model builds otherwise is an error too.
    """
    if min_match <= 0:
        return
    where = f"the bottom-up network ({match.bottom_up}*)" if match.bottom_up else "the model"
    bad = [shape for shape in match.wrong_shape if not _is_predictor(shape, match.bottom_up)]
    if bad:
        raise WeightsError(
            f"{path}: {len(bad)} tensors have another shape than in the model: {_shapes(bad)}. "
            "Only the last layers of heads may differ, for other classes. Set the keys that give "
            "the model its width and depth (e.g. MODEL.RESNETS.*, MODEL.NECK.OUT_CHANNELS, "
            "MODEL.ROI_BOX_HEAD.FC_DIM) as in the training of these weights; "
            "DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH 0 loads what fits."
        )
    if renamed and (odd := _half_used(match)):
        raise WeightsError(
            f"{path}: {len(odd)} tensors have no place in the model, e.g. {odd[0]}, though it has "
            "others of the same part: its bottom-up network differs. Check "
            "MODEL.NECK.BOTTOM_UP and the keys of this network, e.g. MODEL.RESNETS.DEPTH."
        )
    if match.fraction < min_match:
        raise WeightsError(
            f"{path} fills {match.fraction:.0%} of {where}, less than the "
            f"{min_match:.0%} of DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH; the rest would start at "
            f"random.\n{describe(match)}\n"
            "Check that the network is the one these weights were trained with. Weights of unknown "
            "origin need detectron2's names; docs/checkpoints.md lists the known ones."
        )


def check_complete(match: Match, path: str) -> None:
    """Raise an error unless the file and the model have the same tensors: to resume."""
    if match.new or match.missing or match.unexpected or match.wrong_shape:
        raise WeightsError(
            f"{path} was written by another model than this config describes, so training cannot "
            f"be resumed from it.\n{describe(match)}\n"
            "Give the config of that training (config.yaml beside the checkpoint); or, to start "
            "a new training from these weights, name the file with MODEL.WEIGHTS, give another "
            "OUTPUT_DIR and leave out --resume."
        )


def _is_predictor(shape: tuple[str, tuple[int, ...], tuple[int, ...]], bottom_up: str) -> bool:
    """Whether only the number of outputs differs, outside the backbone.

    A hidden layer of another width has a successor with another number of inputs, and that is found
    here; only where nothing follows, in a predictor, does the number of outputs differ alone.
    """
    name, theirs, ours = shape
    in_backbone = bottom_up and name.startswith("backbone.")
    return not in_backbone and len(theirs) == len(ours) > 0 and theirs[1:] == ours[1:]


def _half_used(match: Match) -> list[str]:
    """Names without a place whose first part (``stem``, ``res3``) does have some in the model.

    A network may be used up to a stage; a stage of which tensors are left over is another one.
    """
    known = {(match.within(name) or name).split(".")[0] for name in match.placed} | match.parts
    return [name for name in match.unexpected if name.split(".")[0] in known]


def _module(name: str, match: Match) -> str:
    """Row of the table: the bottom-up network by stage, all else by its first two names."""
    parts = name.split(".")
    within = match.within(name)
    if match.bottom_up and within is not None:
        return name.removesuffix(within) + within.split(".")[0]
    return ".".join(parts[: min(2, len(parts) - 1)]) or name


def _first(names: Sequence[str]) -> str:
    rest = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def _shapes(shapes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> str:
    return _first([f"{name} {theirs}, here {ours}" for name, theirs, ours in shapes])
