"""Weights of a file held against a model: do they belong together, and which tensor goes where?"""

from torch import nn

from .expectations import check_expectations, found_in_model
from .matching import Match, copies_in, deepfuse_names, match, under_one_prefix
from .reading import Weights
from .report import check_match

__all__ = ["fit"]


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
    return found
