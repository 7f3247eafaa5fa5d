"""Any timm model with feature maps of stride 4 to 32 (or 8 to 32) as a bottom-up network.

What timm's models differ in is settled here, once: which of their maps are res2..res5, the order of
their axes, the image sizes they take, the statistics of the images they were trained with, and
which of their layers belong to which stage. All of it is read off the model itself, by one pass of
a small image when it is built.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...config.look_up import keyword_arguments
from ...errors import ConfigError
from ..registration import register
from .protocol import Stage
from .timm_input import TimmInput
from .timm_models import create_timm_model
from .timm_norms import freeze_norms, with_norm
from .timm_probe import (
    drop_unused,
    find_image_sizes,
    find_parts,
    find_row,
    find_stages,
    find_taps,
    runs_by_rows,
)

__all__ = ["TimmBackbone", "build_timm_backbone"]

logger = logging.getLogger(__name__)


def load_weights(
    network: nn.Module, path: str, name: str, arguments: Mapping[str, Any], min_match: float
) -> None:
    """Load a file into a network of features; files of weights are read in a room of their own,
    whose :func:`.timm_files.load_timm_weights` takes this place when the package is imported."""
    raise NotImplementedError("import deepfuse_d2 sets what reads files of weights")


def plain_name(name: str) -> str:
    """The same for a tensor of a timm model and of the network of features made of it.

    There stages have names of their own: ``stages.0.blocks`` is ``stages_0.blocks``, or all stands
    behind ``model.``.
    """
    return name.removeprefix("model.").replace("_", ".")


class TimmBackbone(Backbone):
    """A timm model: image -> {"res2": (N, C, H/4, W/4), ..., "res5": (N, C, H/32, W/32)}.

    A network that divides images (into patches, windows) may take certain sizes or one size only;
    the image is then padded with its mean, at the bottom and on the right, and the maps are cut
    back to ceil(H / stride). Layers that none of the maps depends on are left out, or frozen where that is
    not possible, so that training in several processes does not wait for their gradients.

    Example:
        >>> network = TimmBackbone("resnet10t")
        >>> {name: tuple(f.shape) for name, f in network(torch.rand(1, 3, 64, 96)).items()}
        {'res2': (1, 64, 16, 24), 'res3': (1, 128, 8, 12), 'res4': (1, 256, 4, 6), 'res5': (1, 512, 2, 3)}
    """  # noqa: E501

    @configurable
    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        checkpoint: str = "",
        out_features: Sequence[str] = (),
        norm: str = "",
        drop_path: float = 0.0,
        freeze_at: int = 0,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        image_format: str = "RGB",
        arguments: Mapping[str, Any] | None = None,
        min_match: float = 0.9,
    ):
        """
        Args:
            name, pretrained: see :func:`.timm_models.create_timm_model`.
            checkpoint: file of weights under timm's names, read, matched and reported as those of
                MODEL.WEIGHTS are; nothing is fetched then. "" for none.
            out_features: among "res2" (stride 4) .. "res5" (stride 32); none of them means all that
                the model has.
            norm: what becomes of batch norms: "" (stay), "FrozenBN", "SyncBN".
            drop_path: probability of stochastic depth in [0, 1), for models that have it.
            freeze_at: as in detectron2: 1 freezes the stem, 2 the stem and res2, ...
            pixel_mean, pixel_std: with what the image was normalised, on the scale of 0..255; both
                None if it is already what the model was trained with. The model's own mean and
                deviation take their place here.
            image_format: order of the channels of image, mean and deviation: "RGB" or "BGR".
            arguments: more keyword arguments of ``timm.create_model``, e.g. ``img_size``.
            min_match: part of the tensors, 0..1, that `checkpoint` must fill.
        """
        super().__init__()
        if norm not in ("", "FrozenBN", "SyncBN"):
            raise ConfigError(
                f'MODEL.TIMM.NORM = "{norm}" is unknown; choose one of "" (as the model has it), '
                '"FrozenBN", "SyncBN".'
            )
        if not 0 <= drop_path < 1:
            raise ConfigError(f"MODEL.TIMM.DROP_PATH = {drop_path} must be in [0, 1).")
        arguments = dict(arguments or {})
        if drop_path:
            arguments["drop_path_rate"] = drop_path

        def create(indices: Sequence[int] | None = None, **more) -> nn.Module:
            indices = {} if indices is None else {"out_indices": tuple(indices)}
            return create_timm_model(
                name,
                pretrained=pretrained and not checkpoint,
                arguments={**arguments, **indices, **more},
            )

        body = create()
        taps = find_taps(name, body, out_features)
        if list(taps.values()) != list(body.feature_info.out_indices):
            # Fewer maps than timm gives by itself: what comes after the last one is not built.
            body = create(taps.values())
        # A map of stride 2 tells where the stem ends; it is no output.
        self._tapped = tuple(taps)
        self._out_features = [feature for feature in taps if feature != "stem"]
        channels = dict(zip(taps, body.feature_info.channels(), strict=True))
        strides = dict(zip(taps, body.feature_info.reduction(), strict=True))
        self._out_feature_channels = {f: channels[f] for f in self._out_features}
        self._out_feature_strides = {f: strides[f] for f in self._out_features}
        self._channels_innermost = getattr(body, "output_fmt", None) == "NHWC"

        sizes = find_image_sizes(name, body, list(strides.values()), arguments, create)
        # Parameter name -> number of its stage: 1 for the stem, 2 for res2, ...
        self._stage_of = find_stages(body, self._tapped, sizes.example)
        drop_unused(body, self._stage_of)
        self._row, self._example = find_row(body, self._stage_of), sizes.example

        self.body = with_norm(body, norm, name)
        if checkpoint:
            load_weights(self, checkpoint, name, arguments, min_match)
        self.input = TimmInput(
            name, body.pretrained_cfg, sizes, pixel_mean=pixel_mean, pixel_std=pixel_std,
            image_format=image_format,
        ).to(next(self.body.parameters()).device)  # fmt: skip
        self.freeze(freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        timm = cfg.MODEL.TIMM
        pretrained, checkpoint = timm.PRETRAINED, timm.CHECKPOINT
        if cfg.MODEL.WEIGHTS and (pretrained or checkpoint):
            logger.info(
                "MODEL.WEIGHTS = %s holds the network; MODEL.TIMM.PRETRAINED and CHECKPOINT are "
                "left alone.",
                cfg.MODEL.WEIGHTS,
            )
            pretrained, checkpoint = False, ""
        elif cfg.MODEL.BACKBONE.FREEZE_AT and not (cfg.MODEL.WEIGHTS or pretrained or checkpoint):
            logger.warning(
                "MODEL.BACKBONE.FREEZE_AT = %d freezes random weights: none are given by "
                "MODEL.TIMM.PRETRAINED, MODEL.TIMM.CHECKPOINT or MODEL.WEIGHTS.",
                cfg.MODEL.BACKBONE.FREEZE_AT,
            )
        return {
            "name": timm.NAME,
            "pretrained": pretrained,
            "checkpoint": checkpoint,
            "out_features": timm.OUT_FEATURES,
            "norm": timm.NORM,
            "drop_path": timm.DROP_PATH,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "image_format": cfg.INPUT.FORMAT,
            "arguments": keyword_arguments(
                timm.ARGS, "MODEL.TIMM.ARGS", "timm.create_model", {"strict_img_size": False}
            ),
            "min_match": cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH,
        }

    def names_of(self, names: Iterable[str]) -> dict[str, str]:
        """Names of a plain timm model -> those of the same tensors here, where there are any."""
        own = {plain_name(name): f"body.{name}" for name in self.body.state_dict()}
        return {name: own[plain_name(name)] for name in names if plain_name(name) in own}

    def stages(self) -> list[Stage]:
        """The layers by the first feature that depends on them; the stem as `freeze` has it."""
        parts = find_parts(self.body, self._stage_of)
        return [
            Stage("stem" if depth == 1 else f"res{depth}", depth, tuple(parts[depth]))
            for depth in sorted(parts)
        ]

    def freeze(self, freeze_at: int = 0) -> "TimmBackbone":
        """Stop `freeze_at` stages from learning, their batch norms included; returns itself.

        1 is the stem, 2 the stem and res2, ... A layer belongs to the first feature that depends on
        it. Where timm gives a map of stride 2, the stem is what this map depends on; otherwise it
        is the module with the first convolution.
        """
        frozen = {name for name, stage in self._stage_of.items() if stage <= freeze_at}
        for name, parameter in self.body.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)
        freeze_norms(self.body, lambda name: f"{name}.weight" in frozen)
        return self

    def why_not_by_stages(self) -> str:
        """Why it cannot be run by :meth:`run_stage`; "" where it can, which is tried."""
        if "stem" not in self._row:
            return "no layer comes before its first feature, so that a second network has no start."
        return (
            ""
            if runs_by_rows(self.body, self._row, self._tapped, self._example)
            else ("run one after the other, its modules do not give its features.")
        )

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        """The result (N, C, H, W) of a stage for that of the stage before, or for the image.

        Maps are as large as the network makes them of a padded image; see :meth:`feature`.
        """
        if name == "stem":
            x = self.input(x)
        elif self._channels_innermost:
            x = x.permute(0, 2, 3, 1)
        for module in self._row[name]:
            x = self.body.get_submodule(module)(x)
        return x.permute(0, 3, 1, 2) if self._channels_innermost else x

    def feature(self, name: str, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The result of a stage without what the padding of the image has added."""
        if not self.input.pads:
            return x
        stride = self._out_feature_strides[name]
        return x[..., : -(-size[0] // stride), : -(-size[1] // stride)]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"res2": (N, C, ceil(H/4), ceil(W/4)), ...} from high to low resolution.

        The image is normalised as the config says (see `pixel_mean`).
        """
        size = image.shape[-2:]
        outputs = {}
        for name, feature in zip(self._tapped, self.body(self.input(image)), strict=True):
            if name == "stem":
                continue
            if self._channels_innermost:
                feature = feature.permute(0, 3, 1, 2)
            outputs[name] = self.feature(name, feature, size)
        return outputs


@register(BACKBONE_REGISTRY)
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The model MODEL.TIMM.NAME of timm; MODEL.TIMM has the other keys."""
    return TimmBackbone(cfg, input_shape)
