"""From whatever holds images to predictions, in order, with all parts of the machine at work."""

import copy
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA, build_model
from detectron2.structures import Instances
from PIL import Image
from torch import Tensor, nn

from ..checkpoint import DeepFuseCheckpointer
from ..config.checking import check_config
from ..config.loading import load_config
from ..data.images import to_format
from ..errors import ConfigError, ImageError, WeightsError
from ..modeling.meta_arch import DenseInference
from ..modeling.meta_arch.protocol import channels_of, predictions_of
from ..modeling.postprocessing.unpasted import UnpastedMasks
from .instance_tiles import merge_tiles, tiles_of
from .optimize.model import optimize_for_inference
from .pipeline import ordered_batches
from .reading import MAX_PIXELS, VIDEO_SUFFIXES, find_images, read_channels, read_image, video
from .results import (
    OUTPUTS,
    DetectedInstances,
    convert,
    convert_labels,
    convert_predictions,
    labels_of_logits,
    to_supervision,
)

__all__ = ["Predictor"]

# of augmentation, where DEEPFUSE_D2.TEST.SEM_SEG.SCALES names none
_SCALES = (0.75, 1.0, 1.25)

#: What is one image.
ImageSource = str | os.PathLike | bytes | np.ndarray | Image.Image
#: An image; for a model of several inputs {"image": image, ...}, the others as it takes them.
Source = ImageSource | Mapping[str, Any]


class Predictor:
    """A trained model as a function of images.

    Example:
        >>> predictor = Predictor("configs/MiniCity/....yaml", "output/model_final.pth")
        >>> predictor("street.jpg").pred_boxes
        >>> for instances in predictor.stream("folder/"):
        ...     print(len(instances))

    It may be called from several threads at once; the network then takes turns.
    """

    def __init__(
        self,
        config: str | os.PathLike | CfgNode,
        weights: str | os.PathLike | None = None,
        *,
        opts: Iterable[str] = (),
        **options: Any,
    ):
        """
        Args:
            config: yaml file, or a config.
            weights: in place of MODEL.WEIGHTS.
            opts: KEY VALUE pairs that override the config.
            options: see :meth:`from_model`.
        """
        if isinstance(config, CfgNode):
            cfg = config.clone()
            cfg.defrost()
            cfg.merge_from_list(list(opts))
        else:
            cfg = load_config(os.fspath(config), list(opts))
        if weights is not None:
            cfg.MODEL.WEIGHTS = os.fspath(weights)
        if not cfg.MODEL.WEIGHTS:
            raise WeightsError(
                "Predictor has no weights: give it the file of a trained model, or a config with "
                "MODEL.WEIGHTS."
            )
        check_config(cfg)
        model = build_model(cfg)
        checkpointer = DeepFuseCheckpointer(
            model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH
        )
        checkpointer.load(cfg.MODEL.WEIGHTS)
        self._set_up(model, cfg, **options)

    @classmethod
    def from_model(cls, model: nn.Module, cfg: CfgNode, **options: Any) -> "Predictor":
        """Predict with a model that is built and has its weights.

        Args:
            model: built from `cfg`.
            output: "native" for detectron2's Instances (a label map (H, W) of a semantic model),
                "rle" for COCO's results with compressed run lengths, or "supervision" for
                ``supervision.Detections``. All are on the CPU.
            score_threshold: instances of lower scores are left out, 0..1; None for what the config
                says.
            batch_size: images that go through the network at once; only images of one shape do.
            tile: (height, width) in pixels; a larger image goes tile by tile, each resized as the
                config says for an image, and instances are merged where tiles overlap. None takes
                images whole.
            tile_overlap: pixels that neighbouring tiles share; half the size of what must not be
                missed, or more.
            augment: average over scales and mirrored images (TEST.AUG; DEEPFUSE_D2.TEST.SEM_SEG of
                semantic models).
            optimize: see :func:`optimize_for_inference`; False runs the model as it is.
            dtype, compile: see :func:`optimize_for_inference`.
            workers: threads that read and resize images, and as many that paste masks.
            max_pixels: larger images are refused.
            errors: "raise" an :class:`ImageError` where an image cannot be read, or "return" it in
                the place of the prediction and go on.
        """
        cfg = cfg.clone()
        cfg.defrost()
        self = cls.__new__(cls)
        self._set_up(model, cfg, **options)
        return self

    def _set_up(
        self,
        model: nn.Module,
        cfg: CfgNode,
        *,
        output: str = "native",
        score_threshold: float | None = None,
        batch_size: int = 1,
        tile: tuple[int, int] | None = None,
        tile_overlap: int = 128,
        augment: bool = False,
        optimize: bool = True,
        dtype: torch.dtype | str = "auto",
        compile: bool | str | Callable = False,
        workers: int = 2,
        max_pixels: int = MAX_PIXELS,
        errors: str = "raise",
    ) -> None:
        _check_output(output)
        if errors not in ("raise", "return"):
            raise ConfigError(f'Predictor(errors="{errors}"): choose "raise" or "return".')
        if batch_size < 1 or workers < 1:
            raise ConfigError(
                f"Predictor has batch_size {batch_size} and workers {workers}; each is 1 or more."
            )
        if tile is not None and not 0 <= tile_overlap < min(tile):
            raise ConfigError(
                f"Predictor's tile_overlap is {tile_overlap} pixels; it must be 0 or more and "
                f"smaller than both sides of tile, {tuple(tile)}."
            )
        if tile is not None and augment:
            raise ConfigError("Predictor takes tile or augment, not both.")
        semantic = predictions_of(model) == ("sem_seg",)
        dense = isinstance(getattr(model, "inference", None), DenseInference)
        if semantic and (tile or augment) and not dense:
            raise ConfigError(
                f"A {type(model).__name__} knows neither tiles nor augmentation; use "
                "MODEL.META_ARCHITECTURE FusionSemanticSegmentor, which takes the same weights."
            )
        if semantic and score_threshold is not None:
            raise ConfigError("Labels have no scores; leave out score_threshold.")
        self.cfg = cfg
        self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "_none")
        self.output, self.errors, self.max_pixels = output, errors, max_pixels
        self.batch_size, self.workers = batch_size, workers
        # a semantic model tiles by itself, and blends logits
        self.tile = None if semantic or tile is None else tuple(tile)
        self.tile_overlap = tile_overlap
        if optimize:
            model = optimize_for_inference(model, dtype, compile, score_threshold=score_threshold)
        elif score_threshold is not None:
            raise ConfigError("Predictor(score_threshold=...) needs optimize=True.")
        if dense:
            model = copy.copy(model)
            model.inference = _dense_inference(cfg, tile, tile_overlap, augment)
        self.model = model.eval()
        self._channels = channels_of(model)
        self._unpasted = UnpastedMasks.fits(model)
        self._augmented = None
        if augment and not semantic:
            if not isinstance(model, GeneralizedRCNN):
                raise ConfigError(f"Test-time augmentation does not know {type(model).__name__}.")
            self._augmented = GeneralizedRCNNWithTTA(cfg, model)
        if self.tile and not self._unpasted:
            raise ConfigError(f"Tiles of instances do not fit a {type(model).__name__}.")
        self._resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self._lock = threading.Lock()

    def __call__(self, source: Source | Iterable[Source], output: str | None = None):
        """Predict one image, or several.

        Args:
            source: an image (file, bytes of a file, array (H, W, 3) with blue first, PIL image)
                gives one prediction; a list of images or a folder gives a list; any other iterable,
                and a video, an iterator, see :meth:`stream`. For a model of several inputs, a
                mapping with "image" and the others, which go to the model as they are.
            output: in place of the one of the constructor.
        """
        if _is_folder(source) or isinstance(source, (list, tuple)):
            return list(self.stream(source, output))
        if _is_video(source) or not _is_single(source):
            return self.stream(source, output)
        return next(self.stream([source], output))

    def stream(self, source: Any, output: str | None = None) -> Iterator[Any]:
        """Predictions of any number of images, in order, made a few images ahead of their use.

        For a camera, whose latest frame counts, call the predictor with each frame instead.

        Args:
            source: image, folder (with the folders in it, by name), video, or iterable of images.
            output: in place of the one of the constructor.
        """
        output = output or self.output
        _check_output(output)
        return ordered_batches(
            _images_in(source),
            self._prepare,
            self._run,
            lambda prepared, raw: self._finish(prepared, raw, output),
            shape=lambda prepared: prepared.shape,
            batch_size=self.batch_size,
            workers=self.workers,
        )

    def _prepare(self, source: Source) -> "_Prepared":
        entry = dict(source) if isinstance(source, Mapping) else {"image": source}
        try:
            image = self._read(entry["image"])
        except ImageError as error:
            if self.errors == "raise":
                raise
            return _Prepared(error=error)
        height, width = image.shape[:2]
        if self.tile and (height > self.tile[0] or width > self.tile[1]):
            return _Prepared(image=image, size=(height, width))
        if self._augmented is None:
            image = self._resized(image)
        entry = {"height": height, "width": width, **entry, "image": _as_tensor(image)}
        return _Prepared(entry=entry, size=(height, width))

    def _read(self, source: ImageSource) -> np.ndarray:
        """(H, W, C) in the channels and their order that the model was trained with."""
        image_format = self.cfg.INPUT.FORMAT
        if self._channels != 3:
            return read_channels(source, self._channels, image_format, self.max_pixels)
        return to_format(read_image(source, self.max_pixels), image_format)

    def _resized(self, image: np.ndarray) -> np.ndarray:
        transform = self._resize.get_transform(image)
        if image.shape[:2] == (
            getattr(transform, "new_h", None),
            getattr(transform, "new_w", None),
        ):
            return image  # Pillow would copy it
        return transform.apply_image(image)

    @torch.no_grad()
    def _run(self, batch: list["_Prepared"]) -> list[Any]:
        """What the network makes of images of one shape, on the CPU."""
        if batch[0].error is not None:
            return [None] * len(batch)
        if batch[0].image is not None:
            return [self._run_tiles(prepared.image) for prepared in batch]
        return self._infer([prepared.entry for prepared in batch])

    def _infer(self, entries: list[dict]) -> list[Any]:
        with self._lock:
            if self._augmented is not None:
                found = [x["instances"] for x in self._augmented(entries)]
            elif self._unpasted:
                found = self.model.inference(entries, do_postprocess=False)
            else:
                found = self.model(entries)
        return [_on_cpu(one) for one in found]

    def _run_tiles(self, image: np.ndarray) -> list[tuple]:
        tiles = list(tiles_of(*image.shape[:2], self.tile, self.tile_overlap))
        parts = []
        for first in range(0, len(tiles), self.batch_size):
            some = tiles[first : first + self.batch_size]
            # of one size: the last ones in a row and a column end at the border
            entries = [
                {"image": _as_tensor(self._resized(image[top:bottom, left:right]))}
                for top, left, bottom, right in some
            ]
            for tile, raw in zip(some, self._infer(entries), strict=True):
                # as crops at once: they take less than the masks of a whole image of tiles
                parts.append(
                    (tile, DetectedInstances.of(raw, tile[2] - tile[0], tile[3] - tile[1]))
                )
        return parts

    def _finish(self, prepared: "_Prepared", raw: Any, output: str) -> Any:
        if prepared.error is not None:
            return prepared.error
        try:
            return self._convert(prepared, raw, output)
        except ImageError as error:
            if self.errors == "raise":
                raise
            return error

    def _convert(self, prepared: "_Prepared", raw: Any, output: str) -> Any:
        if prepared.image is not None:
            limit = self.cfg.TEST.DETECTIONS_PER_IMAGE
            found = merge_tiles(raw, prepared.size, limit=limit)
            return convert_predictions(found, output, self.metadata)
        if isinstance(raw, dict) and "sem_seg" in raw and "instances" not in raw:
            return convert_labels(labels_of_logits(raw["sem_seg"]), output, self.metadata)
        if isinstance(raw, Instances) and self._augmented is None:
            return convert(raw, *prepared.size, output, self.metadata)
        finished = raw["instances"] if isinstance(raw, dict) else raw
        if output == "rle":
            return convert_predictions(
                DetectedInstances.of_finished(finished), output, self.metadata
            )
        return finished if output == "native" else to_supervision(finished, self.metadata)


@dataclass(frozen=True)
class _Prepared:
    """An image on its way: as the network takes it, whole for tiles, or what is wrong with it."""

    entry: dict | None = None
    image: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    error: ImageError | None = None

    @property
    def shape(self) -> tuple:
        if self.entry is not None:
            # only what is of one shape, in all that it holds, goes into a batch
            return tuple((k, tuple(v.shape)) for k, v in self.entry.items() if hasattr(v, "shape"))
        return ("error",) if self.image is None else ("tiles",)


def _dense_inference(
    cfg: CfgNode, tile: tuple[int, int] | None, tile_overlap: int, augment: bool
) -> DenseInference:
    """What a semantic model does with an image: DEEPFUSE_D2.TEST.SEM_SEG, and what was asked."""
    arguments = DenseInference.from_config(cfg)
    # labels take a byte of a pixel, logits four for each class
    arguments["output"] = "labels"
    if tile is not None:
        arguments.update(tile=tile, tile_overlap=tile_overlap)
    if augment:
        arguments["flip"] = True
        if tuple(arguments["scales"]) == (1.0,):
            arguments["scales"] = _SCALES
    return DenseInference(**arguments)


def _images_in(source: Any) -> Iterable[Source]:
    if _is_folder(source):
        return find_images(Path(source))
    if _is_video(source):
        return video(Path(source))
    return [source] if _is_single(source) else source


def _is_single(source: Any) -> bool:
    """Whether it is one image, or nothing that holds images (an error then names it)."""
    return isinstance(source, (ImageSource, Mapping)) or not isinstance(source, Iterable)


def _is_folder(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and os.path.isdir(source)


def _is_video(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() in VIDEO_SUFFIXES


def _check_output(output: str) -> None:
    if output not in OUTPUTS:
        raise ConfigError(f'output="{output}" is unknown; choose one of {list(OUTPUTS)}.')


def _as_tensor(image: np.ndarray) -> Tensor:
    """(H, W, C) -> (C, H, W), bytes as they are: normalising makes floats of them."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _on_cpu(found: Instances | dict) -> Instances | dict:
    if isinstance(found, dict):
        return {
            name: value.to("cpu") if hasattr(value, "to") else value
            for name, value in found.items()
        }
    return found.to("cpu")
