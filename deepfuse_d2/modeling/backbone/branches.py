"""Features of the assistants of a composite beside those of its lead, in one dict.

The lead's have their plain names, those of assistant k stand under ``assistant<k>.<name>``. So a
composite in training gives them to a neck, the neck to the model, and whatever asks for "p2" gets
the lead's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

__all__ = ["fuse_branches", "join_branches", "split_branches", "weighed", "with_weights"]

_ASSISTANT = "assistant"


def join_branches(branches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Features of the networks, the lead's last -> one dict."""
    joined = dict(branches[-1])
    for k, features in enumerate(branches[:-1], 1):
        joined.update((f"{_ASSISTANT}{k}.{name}", feature) for name, feature in features.items())
    return joined


def split_branches(features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The other way around; one entry where there are no assistants."""
    branches: dict[str, dict[str, Tensor]] = {"": {}}
    for name, feature in features.items():
        branch, dot, own = name.partition(".")
        if dot and branch.startswith(_ASSISTANT):
            branches.setdefault(branch, {})[own] = feature
        else:
            branches[""][name] = feature
    lead = branches.pop("")
    return [*branches.values(), lead]


def fuse_branches(
    fuse: Callable[[dict[str, Tensor]], dict[str, Tensor]], features: dict[str, Tensor]
) -> dict[str, Tensor]:
    """`fuse`, a neck, over the features of each network by themselves."""
    return join_branches([fuse(branch) for branch in split_branches(features)])


def with_weights(
    branches: Sequence[dict[str, Tensor]], weights: Sequence[float]
) -> Iterator[tuple[int, float, dict[str, Tensor]]]:
    """Number, weight and features of each assistant that is to learn.

    None where there is the lead alone: a composite in evaluation gives nothing else, also below
    heads that compute losses (on validation images, or before the first iteration).
    """
    *assistants, _ = branches
    if assistants:
        pairs = enumerate(zip(weights, assistants, strict=True), 1)
        yield from ((k, weight, features) for k, (weight, features) in pairs if weight)


def weighed(losses: Mapping[str, Tensor], weight: float, assistant: int) -> dict[str, Tensor]:
    """Losses of an assistant as they are logged and added."""
    return {f"{name}_assistant{assistant}": weight * loss for name, loss in losses.items()}
