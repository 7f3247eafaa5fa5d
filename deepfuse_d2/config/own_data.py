"""A config that fits data and machine: what `deepfuse init` writes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..data.guessing import DataSplits
from ..errors import DatasetError
from ..kernels.capabilities import has_bfloat16
from .recipes import base_config
from .start_weights import StartWeights, network_of

__all__ = ["Facts", "facts_of", "write_config"]

# Shorter side of training images: what two cores, and what a GPU, take in a reasonable time. The
# least, the most, and what large objects get.
_SIDES = {"cpu": (224, 448, 256), "cuda": (480, 1024, 768)}
# A tenth of the objects may be smaller than this many pixels of the resized image.
_SMALLEST = 14
_ANCHORS = (8, 16, 32, 64)


@dataclass
class Facts:
    """What the records of a data set ask of a config."""

    classes: list[str]
    images: int
    #: shorter and longer side, of the median image
    sides: tuple[float, float]
    #: square roots of the areas of boxes in pixels: the 10th, 50th and 95th percentile
    objects: tuple[float, float, float]
    #: most objects of an image
    most: int
    has_masks: bool


def facts_of(train: str, val: str) -> Facts:
    """Look at the records of both; no image is read.

    Raises: DatasetError: there is no object, or only some have masks.
    """
    records = DatasetCatalog.get(train)
    classes = list(MetadataCatalog.get(train).get("thing_classes") or ())
    if not classes or not any(record.get("annotations") for record in records):
        raise DatasetError(f'The data set "{train}" has no objects to learn.')
    everything = [*records, *DatasetCatalog.get(val)]
    objects, counts, masks = [], [], []
    for record in everything:
        single = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
        counts.append(len(single))
        for annotation in single:
            box = BoxMode.convert(
                [float(x) for x in annotation["bbox"]], annotation["bbox_mode"], BoxMode.XYWH_ABS
            )
            objects.append(math.sqrt(max(box[2] * box[3], 1)))
            masks.append(bool(annotation.get("segmentation")))
    sides = np.array([sorted((r["height"], r["width"])) for r in everything])
    return Facts(
        classes=classes,
        images=len(records),
        sides=tuple(np.median(sides, axis=0).tolist()),
        objects=tuple(np.percentile(objects, [10, 50, 95]).tolist()),
        most=max(counts),
        has_masks=all(masks),
    )


def write_config(
    found: DataSplits,
    facts: Facts,
    *,
    start: StartWeights,
    time: str = "",
    device: str,
    output: str,
) -> str:
    """A yaml, with the reason beside what is not plain.

    Args:
        start: the network and its weights.
        time: "30m" and the like; "" trains a number of epochs.
        device: "cpu" or "cuda".
        output: folder of the training.
    """
    # On a CPU many small steps, of a narrow network, come further in a time than few large ones.
    width, batch, rate = (64, 2, 1e-3) if device == "cpu" else (256, 8, 2e-4)
    low, high, usual = _SIDES[device]
    short, long = facts.sides
    # as large as the small objects need, and no larger than the image unless they do
    wanted = max(short * _SMALLEST / facts.objects[0], min(short, usual))
    side = int(min(max(wanted, low), high) // 32 * 32)
    scale = side / short
    smallest = facts.objects[0] * scale
    anchor = max(
        (a for a in _ANCHORS if a <= max(0.6 * smallest, _ANCHORS[0])), default=_ANCHORS[0]
    )
    limit = max(100, math.ceil(facts.most * 1.2 / 50) * 50)
    epoch = max(facts.images // batch, 1)
    epochs = int(min(max(4000 / facts.images, 12), 60))
    most = 200_000 if time else epoch * epochs
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    ratio = long / short
    config: dict[str, Any] = {
        "_BASE_": str(base_config("Base-MaskRCNN")),
        "MODEL": {
            "WEIGHTS": start.weights,
            "DEVICE": device,
            "MASK_ON": facts.has_masks,
            "PIXEL_MEAN": mean,
            "PIXEL_STD": std,
            "BACKBONE": {"FREEZE_AT": 0 if start.are_random else 2},
            **network_of(start),
            "NECK": {
                **({"BOTTOM_UP": "build_timm_backbone"} if start.timm else {}),
                "NAME": "DeepFuseFPN",
                "OUT_CHANNELS": width,
            },
            "ANCHOR_GENERATOR": {"SIZES": [[anchor * 2**level] for level in range(5)]},
            "ROI_HEADS": {
                "NUM_CLASSES": len(facts.classes),
                "BATCH_SIZE_PER_IMAGE": 64 if device == "cpu" else 128,
            },
            "ROI_BOX_HEAD": {"FC_DIM": 4 * width},
            # without a norm its loss stays at ln 2 for dozens of iterations
            "ROI_MASK_HEAD": {"CONV_DIM": width, "NORM": "GN"},
        },
        "DATASETS": {"EXTRA": found.entries, "TRAIN": [found.train], "TEST": [found.val]},
        "INPUT": {
            "FORMAT": "RGB",
            "MASK_FORMAT": "bitmask",
            "MIN_SIZE_TRAIN": _sizes(side),
            "MAX_SIZE_TRAIN": int(1.25 * side * max(ratio, 1.2)),
            "MIN_SIZE_TEST": side,
            "MAX_SIZE_TEST": int(1.5 * side * max(ratio, 1.2)),
        },
        "SOLVER": {
            "IMS_PER_BATCH": batch,
            "BASE_LR": rate,
            "WEIGHT_DECAY": 0.05,
            "WEIGHT_DECAY_NORM": 0.0,
            "LR_SCHEDULER_NAME": "WarmupCosineLR",
            "WARMUP_ITERS": 30,
            "MAX_ITER": most,
            "CHECKPOINT_PERIOD": max(5 * epoch, 100),
            "AMP": {"ENABLED": device == "cuda" or has_bfloat16()},
        },
        "DEEPFUSE_D2": {
            "MODEL": {"CHANNELS_LAST": device == "cpu"},
            "SOLVER": {
                "OPTIMIZER": "AdamW",
                "TIME_BUDGET": time,
                "AMP": {"DTYPE": "bfloat16"},
                "SAFETY": {"KEPT_CHECKPOINTS": 3},
            },
        },
        "TEST": {"DETECTIONS_PER_IMAGE": limit, "EVAL_PERIOD": 0 if time else max(epoch, 50)},
        "MONITOR": {
            "METRIC": "segm/AP" if facts.has_masks else "bbox/AP",
            "PICTURES_PERIOD": max(5 * epoch, 100),
        },
        "DATALOADER": {"NUM_WORKERS": 2},
        "SEED": 1,
        "OUTPUT_DIR": output,
    }
    small, half, large = facts.objects
    names = ", ".join(facts.classes[:12]) + (", ..." if len(facts.classes) > 12 else "")
    told = [
        f"{facts.images} images of about {short:.0f} x {long:.0f} pixels to train on",
        f"classes: {names}",
        f"objects of {small:.0f} to {large:.0f} pixels (10th to 95th percentile), half of them "
        f"under {half:.0f}; up to {facts.most} an image",
        f"images are resized to a shorter side of {side}, where the small ones have "
        f"{smallest:.0f} pixels: anchors start at {anchor}",
        f"weights are those of {start.describe()}: first stage and norms stay as they are"
        if not start.are_random
        else "random weights: nothing is frozen, and GroupNorm learns with small batches",
        f"the schedule is fitted to {time} (TIME_BUDGET); MAX_ITER is the most"
        if time
        else f"{epochs} epochs of {epoch} iterations; evaluated each epoch, the best is kept",
    ]
    return _as_text(config, told)


def _sizes(side: int) -> tuple[int, ...]:
    return tuple(int(side * share) // 32 * 32 for share in (0.8, 0.9, 1.0, 1.1))


def _as_text(config: dict[str, Any], told: Sequence[str]) -> str:
    first = "# Written by `deepfuse init` after a look at data and machine; change what you like."
    lines = [first, *(f"# - {line}" for line in told)]
    text = yaml.safe_dump(_plain(config), sort_keys=False, default_flow_style=None, width=100)
    return "\n".join(lines) + "\n" + text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(x) for x in value]
    return value
