"""The dense parts of a model with what they get while it predicts, to be made ready before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..errors import ConfigError
from ..modeling.meta_arch.protocol import channels_of, takes_image_alone
from .engines.build import method_of
from .engines.part import FlatPart

__all__ = ["Recorded", "example_batches", "record_inputs", "smallest_inputs"]


class Recorded:
    """What a part got while a model ran: the part as tensors in and out, and its inputs."""

    def __init__(self, flat: FlatPart, inputs: list[Tensor]):
        self.flat, self.inputs = flat, inputs

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(x.shape) for x in self.inputs)


def smallest_inputs(recorded: Recorded, dynamic: Sequence[int]) -> Recorded:
    """What a part got for the smallest image: of heads of regions one region alone."""
    if tuple(dynamic) != (0,):
        return recorded
    return Recorded(recorded.flat, [x[:1] for x in recorded.inputs])


@torch.no_grad()
def record_inputs(
    model: nn.Module, sources: Mapping[str, nn.Module], batch: list[dict], until: str = ""
) -> dict[str, Recorded]:
    """Inputs of parts while `model` predicts a batch, those of the first call of each.

    Args:
        model: of :func:`folded_copy`.
        sources: :func:`parts_of` it.
        batch: what the model takes.
        until: the part at which the model may stop.
    """
    found: dict[str, Recorded] = {}

    def recorder(path: str, source):
        def record(*args):
            if path not in found:
                inputs, structure = tree_flatten(args)
                found[path] = Recorded(
                    FlatPart(source, structure), [x.contiguous() for x in inputs]
                )
            if path == until:
                raise _Reached
            return source(*args)

        return record

    places = []
    for path, part in sources.items():
        module, method = model.get_submodule(path), method_of(part)
        setattr(module, method, recorder(path, getattr(part, method)))
        places.append((module, method))
    try:
        model(batch)
    except _Reached:
        pass
    finally:
        for module, method in places:
            delattr(module, method)
    return found


class _Reached(Exception):
    """A model has come as far as it should."""


def example_batches(model: nn.Module) -> list[list[dict]]:
    """Random images; the first are of several cells in every map, the last is the smallest.

    Args:
        model: of :func:`folded_copy`; its thresholds of scores are set to 0, so that heads of
            objects are reached.

    Raises:
        ConfigError: the model takes more than an image.
    """
    if not takes_image_alone(model):
        raise ConfigError(
            f"Only models that take an image alone are made ready before; this "
            f"{type(model).__name__} takes more. The engines openvino and inductor take it over "
            "when it first runs."
        )
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.0
    stride = max(shape.stride for shape in model.backbone.output_shape().values())
    sizes = [
        (2, 3 * stride - 5, 4 * stride - 7),
        (1, 5 * stride, 3 * stride - 1),
        (3, 2 * stride, 6 * stride - 3),
        (1, 2 * stride, 2 * stride),
    ]
    generator = torch.Generator().manual_seed(0)
    channels = channels_of(model)
    return [
        [{"image": 255 * torch.rand(channels, *size, generator=generator)} for _ in range(count)]
        for count, *size in sizes
    ]
