"""Losses on the assistants of a composite backbone: CBNetV2 (arXiv 2107.00420, section 3.4).

Training applies the neck and the heads, with their weights, to the features of every network:

    loss = lead + sum over assistants k of weight_k * (the same losses on the features of k)

R-CNNs train all box heads on the proposals of the lead, sampled anew for each network. Inference
has nothing of it: no features, no losses, no parameters.

The heads of detectron2's meta-architectures stay what they are. A hook behind each runs it again on
what a composite in training gives beside the lead's features (see ..backbone.branches), and adds
the losses, called ``<loss>_assistant<k>``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from ...errors import ConfigError
from ..backbone.branches import split_branches, weighed, with_weights
from ..backbone.composite import CompositeBackbone
from .fusion_sem_seg import FusionSemanticSegmentor

__all__ = ["supervise_assistants"]

# what detectron2's meta-architectures call with features in training; each gives losses last
_HEADS = ("proposal_generator", "sem_seg_head", "roi_heads")


def supervise_assistants(model: nn.Module, weights: Sequence[float]) -> nn.Module:
    """`model`, which from now on trains on the assistants of its composite too.

    Args:
        model: an R-CNN, Panoptic FPN, a dense detector (RetinaNet, FCOS), detectron2's semantic
            segmentor or FusionSemanticSegmentor.
        weights: of the losses on each assistant, from the first on; 0 leaves one out.

    Raises: ConfigError: there is no composite, or the model is of another kind.
    """
    composite = next((m for m in model.modules() if isinstance(m, CompositeBackbone)), None)
    if composite is None:
        raise ConfigError(
            f"MODEL.COMPOSITE.ASSISTANT_WEIGHTS is {list(weights)}, but the model has no composite "
            "backbone. Set it to [], or take build_composite_backbone in MODEL.BACKBONE.NAME or "
            "MODEL.NECK.BOTTOM_UP."
        )
    if len(weights) != composite.runs - 1:
        raise ConfigError(
            f"{len(weights)} weights for {composite.runs - 1} assistants: {list(weights)}."
        )
    if not any(weights):
        return model
    if not composite.is_complete:
        raise ConfigError(
            "The assistants of this composite were built without what the lead does not take, and "
            "have not all features to learn from. Say MODEL.COMPOSITE.ASSISTANT_WEIGHTS in the "
            "config that it is built by (supervised=True in python)."
        )
    heads = [getattr(model, name, None) for name in _HEADS]
    if isinstance(model, FusionSemanticSegmentor):
        model.assistant_weights = tuple(weights)
    elif isinstance(model, DenseDetector):
        _DenseAssistants(weights).attach(model)
    elif any(heads):
        for head in heads:
            if head is not None:
                head.register_forward_hook(_HeadAssistants(weights), with_kwargs=True)
    else:
        raise ConfigError(
            f"MODEL.COMPOSITE.ASSISTANT_WEIGHTS is {list(weights)}, but {type(model).__name__} has "
            f"none of the heads {list(_HEADS)}. Set it to []."
        )
    composite.gives_assistants = True
    return model


class _Assistants:
    """Args: weights: of each assistant."""

    def __init__(self, weights: Sequence[float]):
        self.weights = tuple(weights)

    def on_each(
        self, features: dict[str, Tensor], losses_on: Callable[[dict[str, Tensor]], dict]
    ) -> dict[str, Tensor]:
        """Weighed losses of the assistants; what heads log meanwhile has names of its own."""
        losses: dict[str, Tensor] = {}
        for k, weight, branch in with_weights(split_branches(features), self.weights):
            losses |= weighed(_logged_apart(k, losses_on, branch), weight, k)
        return losses


class _HeadAssistants(_Assistants):
    """A forward hook of a head that is called with features, and gives (something, losses)."""

    def __call__(self, head: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        if not head.training:
            return None
        is_features = [_is_features(value) for value in args]
        if not any(is_features):
            return None
        place = is_features.index(True)

        def losses_on(branch: dict[str, Tensor]) -> dict[str, Tensor]:
            own = (*args[:place], branch, *args[place + 1 :])
            return head.forward(*own, **kwargs)[1]

        result, losses = output
        return result, losses | self.on_each(args[place], losses_on)


class _DenseAssistants(_Assistants):
    """Hooks of a dense detector, which gives its head a list of the lead's features alone."""

    def __init__(self, weights: Sequence[float]):
        super().__init__(weights)
        self.features: dict[str, Tensor] = {}
        self.normalizer: float | None = None

    def attach(self, model: DenseDetector) -> None:
        model.register_forward_pre_hook(self.before)
        model.backbone.register_forward_hook(self.between)
        model.register_forward_hook(self.after)

    def before(self, model: DenseDetector, args: tuple) -> None:
        self.normalizer = getattr(model, "loss_normalizer", None)

    def between(self, backbone: nn.Module, args: tuple, features: dict[str, Tensor]) -> None:
        if backbone.training:
            self.features = features

    def after(self, model: DenseDetector, args: tuple, losses: Any) -> Any:
        if not model.training:
            return None
        features, self.features = self.features, {}
        batched_inputs = args[0]
        images = model.preprocess_image(batched_inputs)
        targets = [entry["instances"].to(model.device) for entry in batched_inputs]

        def losses_on(branch: dict[str, Tensor]) -> dict[str, Tensor]:
            maps = [branch[name] for name in model.head_in_features]
            # a moving average of the number of objects, which moves once in a step
            if self.normalizer is not None:
                model.loss_normalizer = self.normalizer
            elif hasattr(model, "loss_normalizer"):
                del model.loss_normalizer
            return model.forward_training(images, maps, model.head(maps), targets)

        return losses | self.on_each(features, losses_on)


def _is_features(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(n, str) for n in value)


def _logged_apart(k: int, losses_on: Callable[[dict], dict], branch: dict) -> dict[str, Tensor]:
    if not has_event_storage():
        return losses_on(branch)
    with get_event_storage().name_scope(f"assistant{k}"):
        return losses_on(branch)
