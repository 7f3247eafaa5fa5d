"""M3FusionSegmentor: land cover from a time series and one very sharp image (arXiv 1803.01945).

    series (T dates of C bands, h x w) -> encoder of each pixel's dates ---- series head
                                                  \\
                                                   fusion head -> a class for each pixel
                                                  /
    image (H x W = r h x r w) -> patch network, or any backbone ------------ image head

Three classifiers learn together: ``loss = full + 0.3 series + 0.3 image``; the full one predicts.
Of the paper only abstract and introduction could be read; layer sizes, losses and training are
those of the public patch-based code of one of its authors (remicres/otbtf), with these differences:
BN is alive (MODEL.M3FUSION.NORM "affine" for the code's, whose statistics never move), dropout
works (the code feeds a rate that nothing uses), and dates that cannot be used are skipped.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ...config.keys.deepfuse import fuse_settings
from ...errors import ConfigError, config_errors
from ...structures.best_class import best_class
from ..registration import register
from ..sem_seg.losses import SemSegLosses
from ..temporal import FUSIONS, SERIES_ENCODERS, DeepFuseFusion, encode_pixels
from ..temporal.fusion import enlarge
from .image_branch import BackboneBranch, PatchBranch, build_image_branch
from .m3fusion_checks import check_m3fusion
from .two_sources import padded, padded_size, series_size, stack_images, stack_series

__all__ = ["M3FusionSegmentor"]

GRIDS = ("series", "image")
# Pixels of series at once in evaluation, which bounds the memory of their states.
_PIXELS = 8192


@register(META_ARCH_REGISTRY)
class M3FusionSegmentor(nn.Module):
    """A class for each pixel of a series, or of an image, from both.

    Images of a batch are padded at the right and the bottom to a common size that the network can
    divide; the series are padded likewise with pixels that have no usable date, in time with dates
    that are not usable. None of it has a label or changes what is predicted elsewhere.
    """

    mapper_name = "series"
    predicts = ("sem_seg",)

    @configurable
    def __init__(
        self,
        *,
        series_encoder: nn.Module | None,
        image_branch: PatchBranch | BackboneBranch | None,
        fusion: nn.Module | None,
        losses: SemSegLosses,
        num_classes: int,
        ratio: int,
        series_mean: Sequence[float] = (),
        series_std: Sequence[float] = (),
        pixel_mean: Sequence[float] = (),
        pixel_std: Sequence[float] = (),
        output_grid: str = "series",
        output: str = "logits",
        auxiliary_weights: Sequence[float] = (0.3, 0.3),
        dropout: float = 0.4,
        source_dropout: float = 0.0,
        train_pixels: int = 0,
        ignore_value: int = 255,
        loss_weight: float = 1.0,
    ):
        """
        Args:
            series_encoder: (P, T, C) series of pixels, days, usable -> (P, D); None does without.
            image_branch: image -> map of features; None does without.
            fusion: features of both -> logits; None where one source is all.
            losses: what is learned from each map of logits.
            ratio: pixels of the image along a side of a pixel of the series.
            series_mean, series_std: of each band; () takes it as it is.
            pixel_mean, pixel_std: of each channel of the image.
            output_grid: where classes are decided, "series" or "image".
            output: "logits" (K, H, W), or "labels" (H, W).
            auxiliary_weights: of the losses of the series head and the image head; with 0, that
                head learns from nothing.
            dropout: of values of the two features, in front of all heads.
            source_dropout: probability in training that a sample lacks one of the two features, for
                a network that shall do with one.
            train_pixels: labelled pixels of a batch to learn from, drawn anew each time; 0 takes
                all. Only where pixels are independent: patches on the grid of the series.
            ignore_value: label of pixels without a class.
            loss_weight: of the full head.
        """
        super().__init__()
        if series_encoder is None and image_branch is None:
            raise ConfigError(
                "MODEL.M3FUSION.USE_TIME_SERIES and USE_IMAGE are both False; use at least one."
            )
        if output_grid not in GRIDS:
            raise ConfigError(
                f'MODEL.M3FUSION.OUTPUT_GRID = "{output_grid}" is unknown; choose one of '
                f"{list(GRIDS)}."
            )
        if train_pixels and (
            output_grid == "image"
            or isinstance(image_branch, BackboneBranch)
            or isinstance(fusion, DeepFuseFusion)
        ):
            raise ConfigError(
                f"MODEL.M3FUSION.TRAIN_PIXELS is {train_pixels}, but single pixels can be learned "
                'from only with OUTPUT_GRID "series", IMAGE_ENCODER "patch" and FUSION "linear" or '
                '"mlp"; set it to 0.'
            )
        self.series_encoder = series_encoder
        self.image_branch = image_branch
        self.fusion = fusion
        self.series_head = self.image_head = None
        if series_encoder is not None:
            self.series_head = nn.Conv2d(series_encoder.out_channels, num_classes, 1)
        if image_branch is not None:
            self.image_head = nn.Conv2d(image_branch.out_channels, num_classes, 1)
        self.losses = losses
        self.ratio = ratio
        self.output_grid = output_grid
        self.output = output
        self.auxiliary_weights = dict(zip(("series", "image"), auxiliary_weights, strict=True))
        self.dropout = nn.Dropout(dropout)
        self.source_dropout = source_dropout
        self.train_pixels = train_pixels
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        divisor = 1 if image_branch is None else image_branch.size_divisibility
        self.size_divisibility = math.lcm(divisor, ratio)
        for name, values in (
            ("pixel_mean", pixel_mean), ("pixel_std", pixel_std),
            ("series_mean", series_mean), ("series_std", series_std),
        ):  # fmt: skip
            self.register_buffer(
                name, torch.tensor(values, dtype=torch.float32)[:, None, None], False
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        keys, head = cfg.MODEL.M3FUSION, cfg.MODEL.SEM_SEG_HEAD
        check_m3fusion(cfg)
        series_encoder = image_branch = fusion = None
        if keys.USE_TIME_SERIES:
            build = SERIES_ENCODERS[keys.SERIES_ENCODER]
            series_encoder = build(
                keys.SERIES_CHANNELS, keys.SERIES_DIM, keys.DATE_ENCODING, keys.ATTENTION_HEADS
            )
        if keys.USE_IMAGE:
            image_branch = build_image_branch(cfg)
        if keys.USE_TIME_SERIES and keys.USE_IMAGE:
            with config_errors():
                fusion = FUSIONS[keys.FUSION](
                    keys.SERIES_DIM, keys.IMAGE_DIM, head.NUM_CLASSES, keys.FUSION_DIM,
                    fuse_settings(cfg),
                )  # fmt: skip
        return {
            "series_encoder": series_encoder,
            "image_branch": image_branch,
            "fusion": fusion,
            "losses": SemSegLosses(cfg),
            "num_classes": head.NUM_CLASSES,
            "ratio": keys.RATIO,
            "series_mean": keys.SERIES_MEAN,
            "series_std": keys.SERIES_STD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "output_grid": keys.OUTPUT_GRID,
            "output": cfg.DEEPFUSE_D2.TEST.SEM_SEG.OUTPUT,
            "auxiliary_weights": keys.AUXILIARY_WEIGHTS,
            "dropout": keys.DROPOUT,
            "source_dropout": keys.SOURCE_DROPOUT,
            "train_pixels": keys.TRAIN_PIXELS,
            "ignore_value": head.IGNORE_VALUE,
            "loss_weight": head.LOSS_WEIGHT,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def inputs(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """What the network takes, padded, normalised and on its device.

        Args:
            batched_inputs: entries with "time_series" (T, C, h, w) and its "dates" (T,), in days;
                "usable" (T, h, w) or (T,), bool, by default all that is finite; "image"
                (C', r h, r w). A source that an entry lacks, or that is switched off, is left out.

        Returns:
            "image" (N, C', H, W); "time_series" (N, T, C, h, w), "dates" (N, T), "usable"
            (N, T, h, w).
        """
        found: dict[str, Tensor] = {}
        has_image = self.image_branch is not None and all("image" in x for x in batched_inputs)
        has_series = self.series_encoder is not None and all(
            "time_series" in x for x in batched_inputs
        )
        if not has_image and not has_series:
            raise ConfigError(
                "M3FusionSegmentor got entries with the keys "
                f"{sorted(batched_inputs[0])}; it needs time_series and dates, image, or both, as "
                "MODEL.M3FUSION.USE_TIME_SERIES and USE_IMAGE say."
            )
        height, width = padded_size(batched_inputs, self.ratio, self.size_divisibility)
        if has_image:
            found["image"] = stack_images(
                batched_inputs, (height, width), self.pixel_mean, self.pixel_std
            )
        if has_series:
            size = (height // self.ratio, width // self.ratio)
            found |= stack_series(batched_inputs, size, self.series_mean, self.series_std)
        return found

    def example_input(self, height: int, width: int) -> dict[str, Tensor | int]:
        """An entry of three dates with a black image of that size, rounded up to whole pixels."""
        height, width = -(-height // self.ratio), -(-width // self.ratio)
        entry: dict[str, Tensor | int] = {}
        if self.image_branch is not None:
            size = (height * self.ratio, width * self.ratio)
            entry["image"] = torch.zeros(len(self.pixel_mean), *size)
        if self.series_encoder is not None:
            entry["time_series"] = torch.zeros(3, self.series_encoder.in_channels, height, width)
            entry["dates"] = torch.tensor([60, 150, 240])
        return entry

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Train on a batch, or predict it.

        Args:
            batched_inputs: see :meth:`inputs`; in training "sem_seg" (h, w) or (H, W) with the
                class of each pixel, in inference "height" and "width" of the result, by default
                those of the grid that classes are decided on.

        Returns:
            in training "loss_sem_seg", "loss_sem_seg_series" and "loss_sem_seg_image"; in inference
            a list of {"sem_seg": logits (K, height, width), or labels (height, width)}.
        """
        if self.training:
            return self._train(batched_inputs)
        return [{"sem_seg": found["sem_seg"]} for found in self.predict(batched_inputs)]

    def predict(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """As inference, with what each head alone says beside the fusion: "series", "image"."""
        inputs = self.inputs(batched_inputs)
        outputs = self.outputs(inputs)
        width = self._grid(inputs)[1]
        return [
            {
                name: self._finish(logits[i].float(), entry, width)
                for name, logits in outputs.items()
            }
            for i, entry in enumerate(batched_inputs)
        ]

    def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits by name, of what :meth:`inputs` returns.

        Returns:
            "sem_seg" (N, K, ., .) on the output grid; where both sources are there, also "series"
            (N, K, h, w) and "image", of the heads of one source.
        """
        features = {}
        if "time_series" in inputs:
            chunk = 0 if self.training else _PIXELS
            features["series"] = encode_pixels(
                self.series_encoder, inputs["time_series"], inputs["dates"], inputs["usable"], chunk
            )
        if "image" in inputs:
            image = inputs["image"]
            on_image = self.output_grid == "image"
            features["image"] = (
                self.image_branch.on_image(image)
                if on_image
                else self.image_branch.on_series(image, self.ratio)
            )
        logits = self._heads(features)
        if self.output_grid == "image" and "image" in inputs:
            # heads of a stride give coarser maps
            size = inputs["image"].shape[-2:]
            for name in {"sem_seg", "image"} & set(logits):
                if logits[name].shape[-2:] != size:
                    logits[name] = F.interpolate(
                        logits[name], size, mode="bilinear", align_corners=False
                    )
        return logits

    def _heads(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        features = {name: self.dropout(feature) for name, feature in features.items()}
        single = {"series": self.series_head, "image": self.image_head}
        logits = {name: single[name](feature) for name, feature in features.items()}
        if len(features) == 1:
            # the only source, or the only one that this input has: its own head decides
            return {"sem_seg": next(iter(logits.values()))}
        return {"sem_seg": self.fusion(*self._drop_sources(features)), **logits}

    def _drop_sources(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        series, image = features["series"], features["image"]
        if not self.training or not self.source_dropout:
            return series, image
        drawn = torch.rand(len(series), 1, 1, 1, device=series.device)
        half = self.source_dropout / 2
        return series * (drawn >= half), image * (drawn < 1 - half)

    def _train(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        inputs = self.inputs(batched_inputs)
        if any("sem_seg" not in entry for entry in batched_inputs):
            names = [x.get("file_name") for x in batched_inputs if "sem_seg" not in x]
            raise ConfigError(
                f"Training samples without labels of their pixels: {names}. M3FusionSegmentor "
                'learns from data sets with "sem_seg_file_name"; see DATASETS.TRAIN.'
            )
        labels = self._labels(batched_inputs, self._grid(inputs))
        if self.train_pixels:
            outputs, labels = self._outputs_of_pixels(inputs, labels)
        else:
            outputs = self.outputs(inputs)
        # https://github.com/pytorch/pytorch/issues/48163: losses suffer in half precision
        with torch.autocast(self.device.type, enabled=False):
            losses = {}
            for name, logits in outputs.items():
                weight = self.loss_weight if name == "sem_seg" else self.auxiliary_weights[name]
                if weight:
                    key = "loss_sem_seg" if name == "sem_seg" else f"loss_sem_seg_{name}"
                    losses |= self._losses(key, logits.float(), labels, weight)
            return losses

    def _losses(self, key: str, logits: Tensor, labels: Tensor, weight: float) -> dict[str, Tensor]:
        if logits.shape[-1] < labels.shape[-1]:
            logits = enlarge(logits, labels.shape[-2:])
        elif labels.shape[-1] < logits.shape[-1]:
            labels = enlarge(labels[:, None].float(), logits.shape[-2:])[:, 0].long()
        values = self.losses(logits, labels)
        if len(values) == 1:
            return {key: weight * next(iter(values.values()))}
        return {f"{key}_{name}": weight * value for name, value in values.items()}

    def _grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, int]:
        """(height, width) of the padded series."""
        if "time_series" in inputs:
            return tuple(inputs["time_series"].shape[-2:])
        return tuple(side // self.ratio for side in inputs["image"].shape[-2:])

    def _labels(self, batched_inputs: list[dict], grid: tuple[int, int]) -> Tensor:
        """(N, h, w) or (N, H, W), whichever the labels have, int64."""
        labels = [entry["sem_seg"].to(self.device) for entry in batched_inputs]
        on_series = tuple(labels[0].shape) == series_size(batched_inputs[0], self.ratio)
        scale = 1 if on_series else self.ratio
        return padded(labels, (grid[0] * scale, grid[1] * scale), self.ignore_value).long()

    def _outputs_of_pixels(
        self, inputs: dict[str, Tensor], labels: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Logits (P, K, 1, 1) by name and labels (P, 1, 1) of pixels drawn from those with one."""
        flat = labels.flatten()
        labelled = (flat != self.ignore_value).nonzero()[:, 0]
        if not len(labelled):
            labelled = torch.zeros(1, dtype=torch.long, device=flat.device)  # a loss of 0
        drawn = labelled[torch.randperm(len(labelled), device=flat.device)[: self.train_pixels]]
        features = {}
        if "time_series" in inputs:
            series = inputs["time_series"].permute(0, 3, 4, 1, 2).flatten(0, 2)[drawn]
            usable = inputs["usable"].permute(0, 2, 3, 1).flatten(0, 2)[drawn]
            days = inputs["dates"][drawn // (labels.shape[-2] * labels.shape[-1])]
            features["series"] = self.series_encoder(series, days, usable)[..., None, None]
        if "image" in inputs:
            vectors = self.image_branch.on_pixels(inputs["image"], self.ratio, drawn)
            features["image"] = vectors[..., None, None]
        return self._heads(features), flat[drawn][:, None, None]

    def _finish(self, logits: Tensor, entry: dict, grid_width: int) -> Tensor:
        """Cut the padding, bring to the size of the result: finer by repetition, coarser by means.

        Args:
            logits: (K, ., .) on the grid of the series or of the image.
            grid_width: of the padded series.
        """
        height, width = series_size(entry, self.ratio)
        scale = logits.shape[-1] // grid_width
        logits = logits[:, : height * scale, : width * scale]
        default = self.ratio if self.output_grid == "image" else 1
        size = (entry.get("height", height * default), entry.get("width", width * default))
        if size[1] < logits.shape[-1]:
            logits = F.adaptive_avg_pool2d(logits, size)
        logits = enlarge(logits[None], torch.Size(size))[0]
        if self.output == "labels":
            return best_class(logits)[0]
        return logits
