"""From whatever holds images to predictions, in order, with all parts of the machine at work."""

import copy
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image
from torch import Tensor, nn

from ..checkpoint import DeepFuseCheckpointer
from ..checkpoint.model_folder import is_model_folder, open_folder
from ..config.building import build_model
from ..config.checking import check_config
from ..config.loading import load_config
from ..data.images import to_format
from ..errors import ConfigError, ImageError, WeightsError
from ..modeling.meta_arch import DenseInference
from ..modeling.meta_arch.augmentation import build_augmented
from ..modeling.meta_arch.protocol import channels_of, predictions_of
from ..modeling.postprocessing.unpasted import UnpastedMasks
from ..structures.detected_instances import DetectedInstances
from .arguments import check_arguments, checked_config, checked_opts
from .instance_tiles import merge_tiles, tiles_of
from .optimize.model import optimize_for_inference
from .pipeline import ordered_batches
from .reading import MAX_PIXELS, VIDEO_SUFFIXES, find_images, read_channels, read_image, video
from .records import FORMS, record_of
from .results import CONVERTERS, OUTPUTS, convert_predictions, scaled_instances

__all__ = ["Predictor"]

# of augmentation, where DEEPFUSE_D2.TEST.SEM_SEG.SCALES names none
_SCALES = (0.75, 1.0, 1.25)

#: What is one image.
ImageSource = str | os.PathLike | bytes | bytearray | BinaryIO | np.ndarray | Image.Image
#: An image; for a model of several inputs {"image": image, ...}, the others as it takes them.
Source = ImageSource | Mapping[str, Any]

_SINGLE = (
    str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Image.Image, Mapping, Tensor,
)  # fmt: skip


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
        model: nn.Module | None = None,
        output: str = "native",
        score_threshold: float | None = None,
        batch_size: int = 1,
        tile: tuple[int, int] | None = None,
        tile_overlap: int = 128,
        augment: bool = False,
        optimize: bool = True,
        dtype: torch.dtype | str = "float32",
        compile: bool | str | Callable = False,
        engine: str = "native",
        workers: int = 2,
        max_pixels: int = MAX_PIXELS,
        errors: str = "raise",
    ):
        """
        Args:
            config: yaml file, recipe, model folder (``deepfuse pack``; also ``hf://owner/name``),
                or a config. Its data sets need not be there; where the one of
                DATASETS.TEST is registered, its names of classes are used.
            weights: in place of MODEL.WEIGHTS.
            opts: KEY VALUE pairs that override the config.
            model: built from `config` and with its weights; then nothing is loaded.
            output: "native" for detectron2's Instances (a label map (H, W) of a semantic model, and
                what a model of one kind of predictions gives else), "rle" for COCO's results with
                compressed run lengths, "supervision" for ``supervision.Detections``, or "record"
                for plain values and PNGs, see :class:`.Record`. All are on the CPU. A model that
                gives several kinds, as Panoptic FPN does, gives a mapping of them: "instances",
                "sem_seg", "panoptic_seg"; a record holds them all.
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
            engine: see there; "aot" executes what was compiled into the model folder (``deepfuse
                pack --aot``), so ask for it with folders of your own making alone. Where it does
                not fit this machine, the model computes as usual, and the log says why.
            workers: threads that read and resize images, and as many that paste masks.
            max_pixels: larger images are refused.
            errors: "raise" what goes wrong with an image, or "return" the error, whatever it is and
                at whatever step, in the place of the prediction and go on.
        """
        check_arguments(
            score_threshold=score_threshold, batch_size=batch_size, tile=tile,
            tile_overlap=tile_overlap, augment=augment, optimize=optimize, dtype=dtype,
            compile=compile, engine=engine, workers=workers, max_pixels=max_pixels,
            errors=errors,
        )  # fmt: skip
        _check_output(output)
        opts = checked_opts(opts)
        if isinstance(config, (str, os.PathLike)):
            cfg = load_config(os.fspath(config), opts)
        else:
            cfg = checked_config(config)
            cfg.merge_from_list(opts)
        folder = None
        if model is None:
            model = _load(cfg, weights)
            if is_model_folder(cfg.MODEL.WEIGHTS):
                folder = open_folder(cfg.MODEL.WEIGHTS, verify=False).path
        elif not isinstance(model, nn.Module):
            raise ConfigError(f"Predictor(model={model!r}): give a model, a torch.nn.Module.")
        predicted = predictions_of(model)
        semantic = predicted == ("sem_seg",)
        dense = isinstance(getattr(model, "inference", None), DenseInference)
        if semantic and (tile or augment) and not dense:
            raise ConfigError(
                f"A {type(model).__name__} knows neither tiles nor augmentation; use "
                "MODEL.META_ARCHITECTURE FusionSemanticSegmentor, which takes the same weights."
            )
        if semantic and score_threshold is not None:
            raise ConfigError("Labels have no scores; leave out score_threshold.")
        # a semantic model tiles by itself, and blends logits
        self.tile: tuple[int, int] | None = None
        if tile is not None and not semantic:
            self.tile = (tile[0], tile[1])
        self.tile_overlap = tile_overlap
        if self.tile and predicted != ("instances",):
            raise ConfigError(
                f"Tiles do not fit a {type(model).__name__}, which predicts "
                f"{', '.join(predicted) or 'nothing that is known'}: only instances, or labels of "
                "pixels alone, are merged."
            )
        self.cfg = cfg
        self.metadata = _metadata(cfg)
        self.output, self.errors, self.max_pixels = output, errors, max_pixels
        self.batch_size, self.workers = batch_size, workers
        if optimize:
            model = optimize_for_inference(
                model, dtype, compile, engine=engine, score_threshold=score_threshold,
                folder=folder,
            )  # fmt: skip
        if dense:
            model = copy.copy(model)
            dense_inference = _dense_inference(cfg, tile, tile_overlap, augment)
            model.inference = dense_inference  # type: ignore[assignment]
        self.model = model.eval()
        self._channels = channels_of(model)
        self._unpasted = UnpastedMasks.fits(model)
        self._augmented = build_augmented(cfg, model) if augment and not semantic else None
        self._resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self._lock = threading.Lock()

    @classmethod
    def from_model(cls, model: nn.Module, cfg: CfgNode, **keywords: Any) -> "Predictor":
        """``Predictor(cfg, model=model, ...)``: of a model built from `cfg`, with its weights.

        Args: see :class:`Predictor`, whose keywords these are.
        """
        return cls(cfg, model=model, **keywords)

    def __call__(self, source: Source | Iterable[Source], output: str | None = None):
        """Predict one image, or several.

        Args:
            source: an image (file by name or open, bytes of a file, array (H, W, 3) with blue
                first, PIL image) gives one prediction; a list of images or a folder gives a list;
                any other iterable, and a video, an iterator, see :meth:`stream`. For a model of
                several inputs, a mapping with "image" and the others, which go to the model as they
                are.
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
        try:
            return self._prepared(source)
        except Exception as error:
            return _Prepared(error=self._returned(error))

    def _prepared(self, source: Source) -> "_Prepared":
        entry = dict(source) if isinstance(source, Mapping) else {"image": source}
        if "image" not in entry:
            raise ImageError(f'A mapping of {list(entry)} has no "image".')
        image = self._read(entry["image"])
        height, width = image.shape[:2]
        if self.tile and (height > self.tile[0] or width > self.tile[1]):
            return _Prepared(image=image, size=(height, width))
        if self._augmented is None:
            image = self._resized(image)
        entry = {"height": height, "width": width, **entry, "image": _as_tensor(image)}
        return _Prepared(entry=entry, size=(height, width))

    def input_of(self, source: Source) -> dict[str, Any]:
        """What the network takes for an image that is not cut into tiles."""
        entry = self._prepared(source).entry
        assert entry is not None
        return entry

    def _returned(self, error: Exception) -> Exception:
        """The error as a result, or raised, as the caller wants it."""
        if self.errors == "raise":
            raise error
        return error

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
        if min(getattr(transform, "new_h", 1), getattr(transform, "new_w", 1)) < 1:
            height, width = image.shape[:2]
            raise ImageError(
                f"An image of {height} x {width} is so long that INPUT.MAX_SIZE_TEST = "
                f"{self.cfg.INPUT.MAX_SIZE_TEST} leaves nothing of its shorter side; cut it."
            )
        return transform.apply_image(image)

    def _run(self, batch: list["_Prepared"]) -> list[Any]:
        """What the network makes of images of one shape, on the CPU; errors in their place."""
        if batch[0].error is not None:
            return [prepared.error for prepared in batch]
        try:
            return self._predicted(batch)
        except Exception as error:
            if self.errors == "raise" or len(batch) == 1:
                return [self._returned(error)]
            # one image may be to blame, and the others shall have their results
            return [self._run([prepared])[0] for prepared in batch]

    @torch.no_grad()
    def _predicted(self, batch: list["_Prepared"]) -> list[Any]:
        if batch[0].image is not None:
            return [self._run_tiles(x.image) for x in batch if x.image is not None]
        return self._infer([x.entry for x in batch if x.entry is not None])

    def _infer(self, entries: list[dict]) -> list[dict[str, Any]]:
        with self._lock:
            if self._augmented is not None:
                found = self._augmented(entries)
            elif self._unpasted:
                raw = self.model.inference(  # type: ignore[operator]
                    entries, do_postprocess=False
                )
                found = [{"instances": one} for one in raw]
            else:
                found = self.model(entries)
        return [{name: _on_cpu(value) for name, value in one.items()} for one in found]

    def _run_tiles(self, image: np.ndarray) -> list[tuple]:
        assert self.tile is not None
        height, width = image.shape[:2]
        tiles = list(tiles_of(height, width, self.tile, self.tile_overlap))
        parts = []
        for first in range(0, len(tiles), self.batch_size):
            some = tiles[first : first + self.batch_size]
            # of one size: the last ones in a row and a column end at the border
            entries = [
                {
                    "image": _as_tensor(self._resized(image[top:bottom, left:right])),
                    "height": bottom - top,
                    "width": right - left,
                }
                for top, left, bottom, right in some
            ]
            for tile, raw in zip(some, self._infer(entries), strict=True):
                # as crops at once: they take less than the masks of a whole image of tiles
                size = tile[2] - tile[0], tile[3] - tile[1]
                instances = scaled_instances(raw["instances"], *size)
                parts.append((tile, DetectedInstances.of(instances, size)))
        return parts

    def _finish(self, prepared: "_Prepared", raw: Any, output: str) -> Any:
        if isinstance(raw, Exception):
            return raw
        try:
            return self._convert(prepared, raw, output)
        except Exception as error:
            return self._returned(error)

    def _convert(self, prepared: "_Prepared", raw: Any, output: str) -> Any:
        if prepared.image is not None:
            limit = self.cfg.TEST.DETECTIONS_PER_IMAGE
            found = merge_tiles(raw, prepared.size, limit=limit)
            if output == "record":
                instances = convert_predictions(found, FORMS["instances"], self.metadata)
                return record_of({"instances": instances}, prepared.size)
            return convert_predictions(found, output, self.metadata)
        results = {
            name: CONVERTERS[name](
                value,
                *prepared.size,
                FORMS[name] if output == "record" else output,
                self.metadata,
            )
            for name, value in raw.items()
            if name in CONVERTERS
        }
        if output == "record":
            return record_of(results, prepared.size)
        return next(iter(results.values())) if len(results) == 1 else results


@dataclass(frozen=True)
class _Prepared:
    """An image on its way: as the network takes it, whole for tiles, or what is wrong with it."""

    entry: dict | None = None
    image: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    error: Exception | None = None

    @property
    def shape(self) -> tuple:
        if self.entry is not None:
            # only what is of one shape, in all that it holds, goes into a batch
            return tuple((k, tuple(v.shape)) for k, v in self.entry.items() if hasattr(v, "shape"))
        return ("error",) if self.image is None else ("tiles",)


def _load(cfg: CfgNode, weights: str | os.PathLike | None) -> nn.Module:
    """The model of a config with its weights."""
    if weights is not None:
        if not isinstance(weights, (str, os.PathLike)):
            raise ConfigError(
                f"Predictor was given a {type(weights).__name__} for its weights; give the name of "
                "a file, or a model that has them by Predictor.from_model."
            )
        cfg.MODEL.WEIGHTS = os.fspath(weights)
    if not cfg.MODEL.WEIGHTS:
        raise WeightsError(
            "Predictor has no weights: give it the file of a trained model, or a config with "
            "MODEL.WEIGHTS."
        )
    # an application has the model, and not what it was trained on
    check_config(cfg, data_sets=False)
    model = build_model(cfg)
    min_match = cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH
    DeepFuseCheckpointer(model, min_match=min_match).load(cfg.MODEL.WEIGHTS)
    return model


def _metadata(cfg: CfgNode) -> Metadata:
    """Of the data set that the config evaluates on, else what a model folder says; or no names."""
    names = [name for name in cfg.DATASETS.TEST if name in MetadataCatalog]
    if names:
        return MetadataCatalog.get(names[0])
    if is_model_folder(cfg.MODEL.WEIGHTS):
        return Metadata(**open_folder(cfg.MODEL.WEIGHTS, verify=False).labels)
    return Metadata()


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
    return (
        isinstance(source, _SINGLE) or hasattr(source, "read") or not isinstance(source, Iterable)
    )


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


def _on_cpu(found: Any) -> Any:
    if isinstance(found, tuple):  # panoptic: labels, and what each is
        return tuple(map(_on_cpu, found))
    return found.to("cpu") if hasattr(found, "to") else found
