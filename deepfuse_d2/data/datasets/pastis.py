"""PASTIS and its kin: patches of 128 x 128 pixels at 10 m, a year of Sentinel-2, crops as labels.

    <root>/metadata.geojson                   number, fold and dates of each patch
    <root>/DATA_S2/S2_<n>.npy                 (T, 10, h, w)
    <root>/ANNOTATIONS/TARGET_<n>.npy         (., h, w); the first channel is the class, 19 = void
    <root>/DATA_SPOT/<any>/..._<n>.tif        the sharp image of PASTIS-HD, ten times as fine
    <root>/DATA_S1A/S1A_<n>.npy, DATA_S1D     radar series of PASTIS-R, in place of S2 if wanted
    <root>/DATA_CLOUDS/CLOUDS_<n>.npy         (T, h, w) bool; MiniFields alone has it

Garnot, Landrieu: "Panoptic Segmentation of Satellite Image Time Series" (arXiv 2107.07933), five
official folds; PASTIS-R: arXiv 2112.07558; PASTIS-HD: Astruc et al., "OmniSat" (arXiv 2404.08351).
"""

import datetime
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DatasetError
from ..cache import Frame, cache_folder, parse_cached
from ..label_images import save_labels
from ..minifields.kinds import MODES
from ..problems import explained
from ..scenes import Scene, days_of

__all__ = ["PASTIS_METADATA", "load_pastis", "minifields_metadata", "pastis_statistics"]

_CLASSES = (
    "Background", "Meadow", "Soft winter wheat", "Corn", "Winter barley", "Winter rapeseed",
    "Spring barley", "Sunflower", "Grapevine", "Beet", "Winter triticale", "Winter durum wheat",
    "Fruits, vegetables, flowers", "Potatoes", "Leguminous fodder", "Soybeans", "Orchard",
    "Mixed cereal", "Sorghum",
)  # fmt: skip
_VOID = 19

PASTIS_METADATA = {
    "evaluator_type": "sem_seg",
    "stuff_classes": list(_CLASSES),
    "ignore_label": _VOID,
    "has_labels": True,
}
_REMEDY = (
    "Unpack PASTIS, PASTIS-R or PASTIS-HD into {root}, or set DETECTRON2_DATASETS to the folder "
    "that holds pastis/. See datasets/README.md."
)

# Raise this when the meaning of what the parser returns changes: it makes old caches void.
_VERSION = 1


def minifields_metadata(mode: str) -> dict[str, Any]:
    """What MiniFields says of its classes."""
    return {
        "evaluator_type": "sem_seg",
        "stuff_classes": list(MODES[mode].classes),
        "stuff_colors": [list(color) for color in MODES[mode].colors],
        "ignore_label": 255,
        "has_labels": True,
    }


def load_pastis(
    root: str | os.PathLike,
    folds: Sequence[int],
    *,
    num_classes: int = len(_CLASSES),
    ignore_label: int = _VOID,
    sensor: str = "S2",
    ratio: int = 10,
) -> list[dict[str, Any]]:
    """Load the patches of some folds.

    Args:
        root: the folder that holds metadata.geojson.
        folds: of 1 .. 5.
        num_classes: ids 0 .. num_classes - 1 and `ignore_label` are allowed in the labels.
        sensor: whose series, "S2", or PASTIS-R's "S1A" and "S1D".
        ratio: pixels of the image along a side of one of the series.

    Returns:
        dicts of `file_name` (of the image where there is one, else of the series), `image_id`,
        `height`, `width` and `sem_seg_file_name` of the labels, `fold`, and `scene`.

    Raises:
        DatasetError: a file is missing or damaged; names it and says what to do.
    """
    root = Path(os.path.abspath(root))
    with explained(_REMEDY.format(root=root)):
        patches = [x for x in _patches(root) if x["Fold"] in folds]
        if not patches:
            raise DatasetError(f"{root} has no patch in the folds {list(folds)}.")
        images = _images(root)
        frames = [_frame(root, patch["ID_PATCH"], sensor) for patch in patches]
        parsed = parse_cached(
            frames,
            functools.partial(_parse, num_classes, ignore_label),
            root=root,
            name=f"pastis_{sensor}_{num_classes}_{ignore_label}",
            version=_VERSION,
        )
    by_number = {str(patch["ID_PATCH"]): patch for patch in patches}
    records = []
    for frame, (length, height, width) in parsed:
        patch = by_number[frame.key]
        dates = _dates(patch, sensor, root)
        if len(dates) != length:
            raise DatasetError(
                f"{frame.sources[0]} has {length} dates, metadata.geojson names {len(dates)}. "
                + _REMEDY.format(root=root)
            )
        clouds = root / f"DATA_CLOUDS/CLOUDS_{frame.key}.npy"
        image = images.get(frame.key, "")
        scene = Scene(
            size=(height, width),
            ratio=ratio,
            image=image,
            series=(frame.sources[0],),
            days=days_of(dates),
            clouds=(str(clouds),) if sensor == "S2" and clouds.is_file() else (),
        )
        records.append(
            {
                "file_name": image or frame.sources[0],
                "image_id": frame.key,
                "height": height,
                "width": width,
                "sem_seg_file_name": frame.products[0],
                "fold": patch["Fold"],
                "scene": scene,
            }
        )
    return records


def pastis_statistics(
    root: str | os.PathLike, folds: Sequence[int], sensor: str = "S2"
) -> tuple[list[float], list[float]]:
    """Mean and deviation of each band over some folds, from NORM_<sensor>_patch.json.

    The mean of the folds' numbers, as in the authors' code: for MODEL.M3FUSION.SERIES_MEAN and
    SERIES_STD.
    """
    path = Path(root) / f"NORM_{sensor}_patch.json"
    try:
        norms = json.loads(path.read_text())
        chosen = [norms[f"Fold_{fold}"] for fold in folds]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"{path} cannot be read, or lacks one of the folds {list(folds)} ({error})."
        ) from error
    mean, std = (np.mean([one[key] for one in chosen], axis=0).tolist() for key in ("mean", "std"))
    return mean, std


def _patches(root: Path) -> list[dict[str, Any]]:
    path = root / "metadata.geojson"
    try:
        features = json.loads(path.read_text())["features"]
        patches = [feature["properties"] for feature in features]
        return sorted(patches, key=lambda patch: patch["ID_PATCH"])
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged ({error!r}).") from error


def _dates(patch: dict[str, Any], sensor: str, root: Path) -> list[datetime.date]:
    try:
        dates = patch[f"dates-{sensor}"]
        dates = json.loads(dates) if isinstance(dates, str) else dates
        in_order = [dates[key] for key in sorted(dates, key=int)]
        return [datetime.datetime.strptime(str(date), "%Y%m%d").date() for date in in_order]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{root / 'metadata.geojson'} gives no dates-{sensor} of patch {patch['ID_PATCH']} "
            f"({error!r}). {_REMEDY.format(root=root)}"
        ) from error


def _images(root: Path) -> dict[str, str]:
    """Patch number -> file, of what lies in DATA_SPOT and below."""
    found = {}
    for path in sorted((root / "DATA_SPOT").rglob("*.tif")):
        found[path.stem.rsplit("_", 1)[-1]] = str(path)
    return found


def _frame(root: Path, number: int, sensor: str) -> Frame:
    folder = cache_folder(root)
    if folder is None:
        raise DatasetError(
            f"There is no place for the converted labels of {root}: the user's cache folder cannot "
            "be written. Set DEEPFUSE_CACHE to a folder that can."
        )
    return Frame(
        str(number),
        (
            str(root / f"DATA_{sensor}/{sensor}_{number}.npy"),
            str(root / f"ANNOTATIONS/TARGET_{number}.npy"),
        ),
        (os.path.join(folder, "labels", "pastis", f"{number}.png"),),
    )


def _parse(num_classes: int, ignore_label: int, frame: Frame) -> list[int]:
    """Check a patch, write its labels as an image; return (T, h, w)."""
    series, labels = (_load(path) for path in frame.sources)
    labels = labels[0] if labels.ndim == 3 else labels
    if series.ndim != 4 or labels.ndim != 2 or series.shape[-2:] != labels.shape:
        raise DatasetError(
            f"{frame.sources[0]} has the shape {series.shape} and {frame.sources[1]} "
            f"{labels.shape}; expected (T, C, h, w) and (., h, w)."
        )
    ids = np.unique(labels)
    wrong = ids[((ids < 0) | (ids >= num_classes)) & (ids != ignore_label)]
    if wrong.size:
        raise DatasetError(
            f"{frame.sources[1]} holds the id {wrong[0]}; expected 0..{num_classes - 1}, or "
            f"{ignore_label} where there is nothing to learn."
        )
    save_labels(np.ascontiguousarray(labels).astype(np.uint8), frame.products[0])
    return [series.shape[0], *labels.shape]


def _load(path: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing.") from error
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path} is damaged or incomplete ({error}).") from error
