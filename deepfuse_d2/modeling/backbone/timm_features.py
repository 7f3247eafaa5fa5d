"""Any timm model with feature maps of stride 4 to 32 (or 8 to 32) as a bottom-up network.

What timm's models differ in is settled here, once: which of their maps are res2..res5, the order of
their axes, the image sizes they take, the statistics of the images they were trained with, and
which of their layers belong to which stage. All of it is read off the model itself, by one pass of
a small image when it is built.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...errors import ConfigError
from ..registration import register
from .protocol import Stage
from .timm_models import create_timm_model
from .timm_probe import (
    drop_unused,
    find_image_sizes,
    find_parts,
    find_row,
    find_stages,
    find_taps,
    runs_by_rows,
)
from .timm_weights import load_timm_weights, plain_name

__all__ = ["TimmBackbone", "build_timm_backbone"]

logger = logging.getLogger(__name__)


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
        self._multiple, self._only_size = sizes.multiple, sizes.only
        self._pads = sizes.multiple > 1 or sizes.only is not None
        # Parameter name -> number of its stage: 1 for the stem, 2 for res2, ...
        self._stage_of = find_stages(body, self._tapped, sizes.example)
        drop_unused(body, self._stage_of)
        self._row, self._example = find_row(body, self._stage_of), sizes.example

        self.body = _with_norm(body, norm, name)
        if checkpoint:
            load_timm_weights(self, checkpoint, name, arguments, min_match)
        self._set_statistics(name, body.pretrained_cfg, pixel_mean, pixel_std, image_format)
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
            "arguments": _merged(timm.ARGS),
            "min_match": cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH,
        }

    def names_of(self, names: Iterable[str]) -> dict[str, str]:
        """Names of a plain timm model -> those of the same tensors here, where there are any."""
        own = {plain_name(name): f"body.{name}" for name in self.body.state_dict()}
        return {name: own[plain_name(name)] for name in names if plain_name(name) in own}

    def _set_statistics(self, name, pretrained_cfg, mean, std, image_format) -> None:
        """Prepare what turns (v - mean) / std of v in 0..255 into the model's own normalisation."""
        # values also of a network that is built without memory, on "meta"
        exact = partial(torch.tensor, dtype=torch.float64, device="cpu")
        own_mean, own_std = (255 * exact(pretrained_cfg[key]) for key in ("mean", "std"))
        self.flip = image_format == "BGR"
        # Either as the config has them, in the order of its channels, or as the model was trained.
        given = [v for v in (mean, std) if v is not None]
        if image_format not in ("RGB", "BGR") or any(len(v) != 3 for v in given):
            raise ConfigError(
                f'INPUT.FORMAT = "{image_format}" with MODEL.PIXEL_MEAN {mean}, PIXEL_STD {std}: '
                "timm's models take three channels; choose RGB or BGR and three values each."
            )
        order = [2, 1, 0] if self.flip else [0, 1, 2]
        mean = own_mean if mean is None else exact(mean)[order]
        std = own_std if std is None else exact(std)[order]
        scale, shift = std / own_std, (mean - own_mean) / own_std
        # Statistics are given with four digits.
        self.rescale = not (
            torch.allclose(scale, torch.ones_like(scale), atol=1e-4)
            and torch.allclose(shift, torch.zeros_like(shift), atol=1e-4)
        )
        if self.rescale or self.flip:
            logger.info(
                "timm's %s expects RGB images of mean %s and deviation %s (0..255); the backbone "
                "converts those of the config (INPUT.FORMAT %s, MODEL.PIXEL_MEAN, PIXEL_STD).",
                name,
                [round(v, 3) for v in own_mean.tolist()],
                [round(v, 3) for v in own_std.tolist()],
                image_format,
            )
        # Part of the config, not of the weights; on the network's device.
        device = next(self.body.parameters()).device
        self.register_buffer("scale", scale.float().reshape(3, 1, 1).to(device), persistent=False)
        self.register_buffer("shift", shift.float().reshape(3, 1, 1).to(device), persistent=False)

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
        for name, module in list(self.body.named_modules()):
            if isinstance(module, _BATCH_NORMS) and f"{name}.weight" in frozen:
                parent, _, child = name.rpartition(".")
                setattr(self.body.get_submodule(parent), child, _frozen_norm(module))
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
            x = self._prepared(x)
        elif self._channels_innermost:
            x = x.permute(0, 2, 3, 1)
        for module in self._row[name]:
            x = self.body.get_submodule(module)(x)
        return x.permute(0, 3, 1, 2) if self._channels_innermost else x

    def feature(self, name: str, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The result of a stage without what the padding of the image has added."""
        if not self._pads:
            return x
        stride = self._out_feature_strides[name]
        return x[..., : -(-size[0] // stride), : -(-size[1] // stride)]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"res2": (N, C, ceil(H/4), ceil(W/4)), ...} from high to low resolution.

        The image is normalised as the config says (see `pixel_mean`).
        """
        size = image.shape[-2:]
        outputs = {}
        for name, feature in zip(self._tapped, self.body(self._prepared(image)), strict=True):
            if name == "stem":
                continue
            if self._channels_innermost:
                feature = feature.permute(0, 3, 1, 2)
            outputs[name] = self.feature(name, feature, size)
        return outputs

    def _prepared(self, image: Tensor) -> Tensor:
        if self.flip:
            image = image.flip(1)
        if self.rescale:
            image = image * self.scale + self.shift
        # Decided by the model alone, not by the image, so that a trace serves other sizes.
        if self._pads:
            below, right = self._padding(*image.shape[-2:])
            image = F.pad(image, (0, right, 0, below))
        return image

    def _padding(self, height: int, width: int) -> tuple[int, int]:
        """Rows below and columns on the right that make an image one of those the model takes."""
        if self._only_size is None:
            return -height % self._multiple, -width % self._multiple
        below, right = self._only_size[0] - height, self._only_size[1] - width
        if below < 0 or right < 0:
            raise ConfigError(
                f"This timm model was built for images of {self._only_size[0]} x "
                f"{self._only_size[1]} (img_size of MODEL.TIMM.ARGS) and got one of {height} x "
                f"{width}. Build it for the largest image, or make images smaller "
                "(INPUT.MIN_SIZE_TRAIN, MAX_SIZE_TRAIN, MIN_SIZE_TEST, MAX_SIZE_TEST)."
            )
        return below, right


def _merged(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not all(isinstance(mapping, Mapping) for mapping in mappings):
        raise ConfigError(
            f"MODEL.TIMM.ARGS = {mappings} must be a list of mappings from argument names of "
            "timm.create_model to values, e.g. [{'strict_img_size': False}]."
        )
    return {name: value for mapping in mappings for name, value in mapping.items()}


_BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def _with_norm(body: nn.Module, norm: str, name: str) -> nn.Module:
    """`body` with its batch norms frozen or synchronised; the others stay as they are."""
    if norm and not any(isinstance(m, _BATCH_NORMS) for m in body.modules()):
        logger.warning('MODEL.TIMM.NORM = "%s" changes nothing: %s has no batch norm.', norm, name)
    if norm == "SyncBN":
        # timm's, because torch's forgets the activation inside timm's batch norms
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(body)
    if norm == "FrozenBN":
        for module_name, module in list(body.named_modules()):
            if isinstance(module, _BATCH_NORMS):
                parent, _, child = module_name.rpartition(".")
                setattr(body.get_submodule(parent), child, _frozen_norm(module))
    return body


def _frozen_norm(norm: nn.Module) -> nn.Module:
    """detectron2's frozen batch norm, or timm's for those of timm that hold an activation."""
    if hasattr(norm, "act"):
        from timm.layers import freeze_batch_norm_2d

        return freeze_batch_norm_2d(norm)
    return FrozenBatchNorm2d.convert_frozen_batchnorm(norm)


@register(BACKBONE_REGISTRY)
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The model MODEL.TIMM.NAME of timm; MODEL.TIMM has the other keys."""
    return TimmBackbone(cfg, input_shape)
