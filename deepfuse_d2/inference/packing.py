"""A trained model as a folder that stands alone; see checkpoint/model_folder.py for its layout."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import Metadata, MetadataCatalog
from torch import nn

from ..checkpoint import model_folder
from ..checkpoint.expectations import found_in_model
from ..checkpoint.writing import write_weights
from ..config.checking import check_config
from ..config.flatten import flatten
from ..config.keys import add_deepfuse_config
from ..data.minicity.render import render_frame
from ..errors import ConfigError, UserError, WeightsError
from ..files import written_whole
from ..modeling.meta_arch.protocol import channels_of, predictions_of, takes_image_alone
from ..version import __version__
from .compile_ahead import compile_ahead
from .int8 import Quantization, quantize
from .model_card import model_card
from .predictor import Predictor

__all__ = ["Calibration", "pack"]

# What of a config belongs to a machine, a data set or a training, not to the model.
_LEFT_OUT = (
    "CACHE", "CUDNN_BENCHMARK", "DATALOADER", "DATASETS", "DEEPFUSE_D2.CACHE",
    "DEEPFUSE_D2.DATALOADER", "DEEPFUSE_D2.SOLVER", "MODEL.DEVICE", "MODEL.TIMM.CHECKPOINT",
    "MODEL.TIMM.PRETRAINED", "MODEL.WEIGHTS", "MONITOR", "OUTPUT_DIR", "SEED", "SOLVER",
    "TEST.EVAL_PERIOD", "VIS_PERIOD",
)  # fmt: skip
_NETWORK = ("MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.NECK.BOTTOM_UP",
            "MODEL.NECK.NAME")  # fmt: skip
_LABELS = (
    "thing_classes", "thing_colors", "thing_dataset_id_to_contiguous_id", "stuff_classes",
    "stuff_colors", "stuff_dataset_id_to_contiguous_id", "ignore_label",
)  # fmt: skip


def pack(
    cfg: CfgNode,
    output: Path,
    *,
    name: str = "",
    license: str = "",
    image: str | None = None,
    results: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    aot: str = "",
    int8: Calibration | None = None,
) -> Path:
    """Write the model of a config, with MODEL.WEIGHTS, as a folder; return the folder.

    It appears under its name when it is complete and its prediction on the sample was made by what
    lies in it.

    Args:
        name: of the model, on its card; by default that of the folder.
        license: of the weights, as model hubs abbreviate it ("apache-2.0"); "" says nothing.
        image: a file for the sample; by default a drawn street.
        results: ``results`` of a training's results.json, for the card.
        overwrite: whether a model folder that is there gives way.
        int8: how to bring the dense parts to 8-bit integers, which Predictor(folder,
            engine="openvino", dtype="int8") then takes.
        aot: a device, "cpu" or "cuda", to compile the dense parts for, as this machine has it, see
            :func:`.compile_ahead`; "" does not.

    Raises:
        ConfigError: the folder exists, or the image is none.
        WeightsError: there are no weights, or they are of another model.
        UserError: integers cost more accuracy than they may.
    """
    output = Path(os.path.abspath(output))
    _check_place(output, overwrite)
    check_config(cfg, data_sets=False)
    if not cfg.MODEL.WEIGHTS:
        raise WeightsError("There are no weights to pack: give a file with --weights.")
    unfinished = output.with_name(f"{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)

    predictor = Predictor(cfg, optimize=False, opts=["MODEL.DEVICE", "cpu"])
    model = predictor.model
    write_weights(unfinished / model_folder.WEIGHTS, model.state_dict(), "", found_in_model(model))
    _write(unfinished / model_folder.CONFIG, yaml.safe_dump(difference(cfg), sort_keys=True))
    os.chmod(unfinished / model_folder.WEIGHTS, 0o644)  # safetensors lets the owner alone read
    labels = labels_of(cfg)
    _write(unfinished / model_folder.LABELS, json.dumps(labels, indent=1) + "\n")
    network = {key: value for key, value in flatten(cfg).items() if key in _NETWORK and value}
    files = [model_folder.CONFIG, model_folder.WEIGHTS, model_folder.LABELS]
    by = f"deepfuse_d2 {__version__}"
    model_folder.write_mark(unfinished, files, network, by)
    integers = ""
    if int8 is not None:
        try:
            added, costs = quantize(model, unfinished, int8.of(predictor))
        except UserError:  # what is refused leaves nothing
            shutil.rmtree(unfinished)
            raise
        files += added
        integers = costs.table()
        logging.getLogger(__name__).info("8-bit integers:\n%s", integers)
    files += write_sample(unfinished, model, image)
    card = model_card(
        cfg, model, unfinished, name=name or output.name, license=license, labels=labels,
        results=results or {}, files=files, integers=integers,
    )  # fmt: skip
    _write(unfinished / "README.md", card)
    model_folder.write_mark(unfinished, files, network, by)
    if aot:
        compile_ahead(model.to(aot), unfinished)
    if output.exists():
        shutil.rmtree(output)
    os.rename(unfinished, output)
    return output


@dataclass(frozen=True)
class Calibration:
    """What integers are calibrated on, and how they are judged.

    Args:
        files: images; a few hundred.
        evaluate, limit: see :class:`.Quantization`.
    """

    files: Sequence[str | os.PathLike]
    evaluate: Callable[[nn.Module], Mapping[str, Any]]
    limit: float = 0.5

    def of(self, predictor: Predictor) -> Quantization:
        return Quantization(_Images(predictor, self.files), self.evaluate, self.limit)


class _Images(Sequence):
    """Images as the network takes them, each read when it is asked for."""

    def __init__(self, predictor: Predictor, files: Sequence[str | os.PathLike]):
        self.predictor, self.files = predictor, files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index):
        return self.predictor.input_of(self.files[index])


def difference(cfg: CfgNode) -> dict[str, Any]:
    """What of a config differs from the defaults, as nested mappings; no path of this machine."""
    default = get_cfg()
    add_deepfuse_config(default)
    usual = flatten(default)
    result: dict[str, Any] = {"VERSION": cfg.VERSION}
    for key, value in flatten(cfg).items():
        if key == "VERSION" or value == usual.get(key, object()):
            continue
        if any(key == name or key.startswith(f"{name}.") for name in _LEFT_OUT):
            continue
        if isinstance(value, str) and os.path.isabs(value):
            continue
        node = result
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = list(value) if isinstance(value, tuple) else value
    return result


def labels_of(cfg: CfgNode) -> dict[str, Any]:
    """Names and colours of the classes that the model gives, as JSON holds them."""
    metadata: Metadata = Metadata()
    for name in cfg.DATASETS.TEST:
        if name in MetadataCatalog:
            metadata = MetadataCatalog.get(name)
            break
    else:
        weights = cfg.MODEL.WEIGHTS
        if model_folder.is_model_folder(weights):  # packed again
            return dict(model_folder.open_folder(weights, verify=False).labels)
    found = {key: metadata.get(key) for key in _LABELS}
    return json.loads(json.dumps({k: v for k, v in found.items() if v is not None}, default=list))


def write_sample(folder: Path, model: nn.Module, image: str | None) -> list[str]:
    """Write an image, and what the model in `folder` gives for it; return the names of the files.

    None are written for a model that takes more than an image of three channels.
    """
    if not takes_image_alone(model) or channels_of(model) != 3:
        return []
    if image is None:
        pixels = np.asarray(render_frame(0, "val", 0, 512, 256).image)[:, :, ::-1]
    else:
        pixels = cv2.imread(image)
        if pixels is None:
            raise ConfigError(
                f"--image {image} does not exist or is no image that OpenCV can read."
            )
    cv2.imwrite(str(folder / "sample.png"), pixels)
    semantic = predictions_of(model) == ("sem_seg",)
    predictor = Predictor(
        folder, output="native" if semantic else "rle", opts=["MODEL.DEVICE", "cpu"]
    )
    found = predictor(folder / "sample.png")
    if semantic:
        labels = np.asarray(found)
        # 16 bits where there are more classes than a byte tells apart
        labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
        cv2.imwrite(str(folder / "sample_labels.png"), labels)
        return ["sample.png", "sample_labels.png"]
    _write(folder / "sample.json", json.dumps(found, default=_plain) + "\n")
    return ["sample.png", "sample.json"]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _check_place(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise ConfigError(f"{output} exists; give another --output, or --overwrite.")
    # what is no model of ours is not deleted
    model_folder.open_folder(output, verify=False)


def _write(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
