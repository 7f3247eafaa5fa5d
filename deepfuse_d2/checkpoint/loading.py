"""Weights of a file held against a model: do they belong together, and which tensor goes where?"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from ..errors import WeightsError
from .expectations import check_expectations, found_in_model
from .matching import Match, copies_in, deepfuse_names, match, under_one_prefix
from .reading import Weights
from .report import check_match, describe

__all__ = ["choose", "fit", "load_into"]


def load_into(model: nn.Module, weights: Weights, path: str, *, min_match: float) -> Match:
    """Load the part of a file that fits `model`, checked and reported; the one way in for weights.

    Args:
        weights: as :func:`.reading.read_weights` returns them.
        path, min_match: see :func:`fit`.

    Raises: WeightsError: see :func:`fit`.
    """
    weights = choose(weights, model)
    found = fit(weights, path, model, min_match=min_match)
    report = f"{weights.origin or 'Weights'} in {path}:\n{describe(found)}"
    if copies := weights.copies():
        ways = " or ".join(f'"{path.split("?")[0]}?entry={entry}"' for entry in copies[:3])
        report += (
            f'\nThe file holds this network more than once: "{weights.entry}" was taken; {ways} '
            "takes another."
        )
    left_over = set(found.unexpected) - set(weights.unused)
    incomplete = found.missing or found.wrong_shape or left_over
    logger = logging.getLogger(__name__)
    (logger.warning if incomplete else logger.info)(report)
    model.load_state_dict(found.placed, strict=False)
    return found


def choose(weights: Weights, model: nn.Module) -> Weights:
    """Of all readings of a file, the one that fills most of the model; of equals the first."""
    readings = [weights, *weights.others]
    readings += [own for one in readings for own in _in_own_names(one, model)]
    model_state = model.state_dict()
    deepfuse, copies = deepfuse_names(model), copies_in(model)

    def filled(one: Weights) -> tuple[float, int]:
        best = (0.0, 0)
        for state in (one.state, under_one_prefix(one.original, model_state, copies)):
            try:
                found = match(state, model_state, deepfuse, copies)
            # a reading that cannot be placed is none; that of all of them is said by `fit`
            except WeightsError:
                continue
            # counters of batches apart, which renaming leaves out
            placed = sum(not name.endswith("num_batches_tracked") for name in found.placed)
            best = max(best, (found.fraction if placed else 0.0, placed))
        return best

    chosen = max(readings, key=filled)
    if chosen is not weights:
        others = [one for one in readings if one is not chosen]
        chosen = dataclasses.replace(chosen, rest=weights.rest, others=others)
    return chosen


def _in_own_names(weights: Weights, model: nn.Module) -> Iterator[Weights]:
    """`weights` as the networks in the model call them that know names of another library.

    Such a network (build_timm_backbone) says its names by ``names_of(names in the file)``, and
    feeds itself as its library does.
    """
    for path, module in model.named_modules():
        names_of: Callable[[Iterable[str]], dict[str, str]] | None
        names_of = getattr(type(module), "names_of", None)
        if names_of is None:
            continue
        tensors = weights.original or weights.state
        own = names_of(module, tensors)
        prefix = f"{path}." if path else ""
        if own:
            yield dataclasses.replace(
                weights,
                state={f"{prefix}{own[name]}": v for name, v in tensors.items() if name in own},
                origin="",
                expects={},
                renamed=False,
                original={},
                unused=[name for name in tensors if name not in own],
                others=[],
            )


def fit(weights: Weights, path: str, model: nn.Module, *, min_match: float) -> Match:
    """Return the places of `weights` in `model`; changes neither.

    Args:
        path: of the file, for messages.
        min_match: see :func:`.report.check_match`.

    Raises: WeightsError: the model feeds the network other images than the weights expect, has its
        stride elsewhere, or takes too little of them.
    """
    model_state = model.state_dict()
    deepfuse, copies = deepfuse_names(model), copies_in(model)
    # A network built by the library that the weights come from has their names as they are, and
    # its own way to feed it (build_timm_backbone).
    original = under_one_prefix(weights.original, model_state, copies)
    as_they_are = match(original, model_state, deepfuse, copies)
    if weights.original and as_they_are.fraction >= max(min_match, 0.5):
        found, renamed = as_they_are, False
    else:
        check_expectations(weights.expects, found_in_model(model), weights.origin or path)
        found, renamed = match(weights.state, model_state, deepfuse, copies), weights.renamed
        found.unexpected += weights.unused
    check_match(found, path, min_match=min_match, renamed=renamed)
    _check_finite(found, path)
    return found


def _check_finite(found: Match, path: str) -> None:
    broken = [
        name
        for name, tensor in found.placed.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if broken:
        raise WeightsError(
            f"{path}: {len(broken)} of {len(found.placed)} tensors hold values that are not finite "
            f"(NaN or infinite), e.g. {broken[0]}. They come from a training that diverged, or the "
            "file is damaged; take an earlier checkpoint."
        )
