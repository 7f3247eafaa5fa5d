"""Makes a MiniFields on disk, whole or not at all, in the layout of PASTIS-HD.

metadata.geojson                              number, fold, dates and outline of each scene
DATA_S2/S2_<n>.npy                            (T, 10, h, w) int16 reflectance x 10,000
DATA_CLOUDS/CLOUDS_<n>.npy                    (T, h, w) bool; PASTIS has no such folder
DATA_SPOT/.../SPOT6_RVB_1M00_2019_<n>.tif     (r h, r w, 3) uint8 GeoTIFF
ANNOTATIONS/TARGET_<n>.npy                    (1, h, w) uint8
ANNOTATIONS/ParcelIDs_<n>.npy                 (h, w) uint16, the field of each pixel
NORM_S2_patch.json                            mean and deviation of each band, by fold
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from .manifest import VERSION, Manifest, is_complete, scene_paths
from .scene import Scene, draw_scene

__all__ = ["ensure_minifields", "generate_minifields"]

logger = logging.getLogger(__name__)

_YEAR = datetime.date(2019, 1, 1)
# Ground sampling distance of the series in metres, and where the first scene lies (EPSG 2154).
_RESOLUTION = 10
_ORIGIN = (500_000, 6_600_000)


def generate_minifields(
    root: str | os.PathLike,
    manifest: Manifest | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[], None] | None = None,
) -> None:
    """Make a MiniFields in ``root``, a folder that need not exist; a complete one is left alone.

    Args:
        manifest: what to draw; None takes the defaults.
        overwrite: replace a MiniFields of other parameters.
        progress: called after each scene.

    Raises:
        FileExistsError: ``root`` holds something else, or a MiniFields of other parameters and
            ``overwrite`` is not set.
    """
    root, manifest = Path(root).absolute(), manifest or Manifest()
    if manifest.is_made(root, overwrite=overwrite):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own, moved in one step: whoever looks sees all of it or nothing.
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}.partial-", dir=root.parent))
    try:
        partial.chmod(0o755)  # mkdtemp's folders are private, a data set is not
        _draw_all(partial, manifest, progress)
        if Manifest.read(root) is not None:
            shutil.rmtree(root)
        try:
            os.replace(partial, root)
        except OSError:
            if not is_complete(root):  # unless another process was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def ensure_minifields(root: str | os.PathLike, mode: str = "mixed") -> None:
    """Make the default MiniFields of `mode` in ``root`` unless a complete one is there.

    A set with files missing is made again with its own parameters. Any number of processes may call
    it at once: each draws, the first to finish counts.

    Raises:
        FileExistsError: ``root`` holds files but no MiniFields.
    """
    root = Path(root).absolute()
    if is_complete(root):
        return
    manifest = Manifest.read(root)
    manifest = Manifest(mode=mode) if manifest is None else replace(manifest, version=VERSION)
    logger.info("No whole MiniFields in %s: drawing %s; this takes some seconds", root, manifest)
    generate_minifields(root, manifest, overwrite=True)


def _draw_all(root: Path, manifest: Manifest, progress: Callable[[], None] | None) -> None:
    features, sums = [], {}
    for number, fold in manifest.scenes():
        scene = draw_scene(
            [manifest.seed, number],
            manifest.mode,
            size=manifest.size,
            ratio=manifest.ratio,
            cloud_probability=manifest.cloud_probability,
        )
        paths = scene_paths(root, number)
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        np.save(paths["series"], scene.series)
        np.save(paths["clouds"], scene.clouds)
        np.save(paths["labels"], scene.labels[None])
        np.save(paths["fields"], scene.fields)
        left, top = _corner(number, manifest.size)
        _save_geotiff(paths["image"], scene.image, left, top, _RESOLUTION / manifest.ratio)
        features.append(_feature(number, fold, scene, left, top))
        values = scene.series.transpose(1, 0, 2, 3).reshape(scene.series.shape[1], -1) * 1.0
        sums.setdefault(fold, []).append((values.mean(1), (values**2).mean(1)))
        if progress is not None:
            progress()
    (root / "metadata.geojson").write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}},
                "features": features,
            }
        )
    )
    norms = {}
    for fold, moments in sorted(sums.items()):
        mean, square = np.mean(moments, axis=0)
        deviation = np.sqrt(square - mean**2)
        norms[f"Fold_{fold}"] = {"mean": mean.round(1).tolist(), "std": deviation.round(1).tolist()}
    (root / "NORM_S2_patch.json").write_text(json.dumps(norms, indent=1))
    manifest.write(root)  # last: it says that the rest is there


def _corner(number: int, size: int) -> tuple[int, int]:
    """Metres of the left and upper edge: scenes stand in rows of 100, a pixel apart."""
    step = (size + 1) * _RESOLUTION
    return _ORIGIN[0] + number % 100 * step, _ORIGIN[1] - number // 100 * step


def _feature(number: int, fold: int, scene: Scene, left: int, top: int) -> dict:
    side = len(scene.labels) * _RESOLUTION
    ring = [
        [left, top],
        [left + side, top],
        [left + side, top - side],
        [left, top - side],
        [left, top],
    ]
    dates = [_YEAR + datetime.timedelta(days=int(day)) for day in scene.days]
    return {
        "type": "Feature",
        "id": str(number),
        "properties": {
            "ID_PATCH": number,
            "Fold": fold,
            "N_Parcel": int(scene.fields.max()),
            # of field 1, 2, ...: a place in kinds.py, for what could be reached at best
            "Kinds": scene.kinds.tolist(),
            "dates-S2": {str(i): int(date.strftime("%Y%m%d")) for i, date in enumerate(dates)},
        },
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }


def _save_geotiff(path: Path, image: np.ndarray, left: float, top: float, pixel: float) -> None:
    """An RGB GeoTIFF by Pillow alone: the three tags that say where it lies (EPSG 2154)."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for number, kind, values in (
        (33550, 12, (float(pixel), float(pixel), 0.0)),  # ModelPixelScale
        (33922, 12, (0.0, 0.0, 0.0, float(left), float(top), 0.0)),  # ModelTiepoint
        # GeoKeyDirectory: projected, pixels are areas, EPSG 2154
        (34735, 3, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 2154)),
    ):
        tags.tagtype[number] = kind
        tags[number] = values
    Image.fromarray(image).save(path, tiffinfo=tags, compression="tiff_deflate")
