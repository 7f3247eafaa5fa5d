"""Finding the files of a data set in the folder layout of Cityscapes."""

import logging
import os

from ...errors import DatasetError
from ..problems import report

__all__ = ["IMAGE_SUFFIX", "layout_folders", "list_images", "list_labelled_images"]

IMAGE_SUFFIX = "_leftImg8bit.png"

logger = logging.getLogger(__name__)


def layout_folders(root: str | os.PathLike, split: str) -> dict[str, str]:
    """Return `image_dir` and `gt_dir` of a split, as detectron2 names them in its metadata."""
    return {
        "image_dir": os.path.join(root, "leftImg8bit", split),
        "gt_dir": os.path.join(root, "gtFine", split),
    }


def list_images(root: str, split: str) -> list[tuple[str, str, str]]:
    """Return (city, frame, absolute path) of every image, sorted."""
    folder = os.path.join(root, "leftImg8bit", split)
    if not os.path.isdir(folder):
        raise DatasetError(f"Image folder {folder} does not exist.")
    images = []
    cities = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    for city in cities:
        city_folder = os.path.join(folder, city)
        names = sorted(
            name
            for name in os.listdir(city_folder)
            if name.endswith(IMAGE_SUFFIX) and not name.startswith(".")
        )
        if not names:
            logger.warning(
                "Folder %s holds no image *%s, and is left out.", city_folder, IMAGE_SUFFIX
            )
        images += [
            (city, name.removesuffix(IMAGE_SUFFIX), os.path.join(city_folder, name))
            for name in names
        ]
    if not images:
        raise DatasetError(
            f"Image folder {folder} holds no city folder with images *{IMAGE_SUFFIX}."
        )
    return images


def list_labelled_images(
    root: str, split: str, kinds: tuple[str, ...]
) -> list[tuple[str, str, str]]:
    """Return (key, image, label file) of every frame, with the first kind of label it has."""
    folder = os.path.join(root, "gtFine", split)
    if not os.path.isdir(folder):
        raise DatasetError(f"Label folder {folder} does not exist.")
    found, missing = [], []
    files: dict[str, set[str]] = {}
    for city, frame, image in list_images(root, split):
        city_folder = os.path.join(folder, city)
        if city not in files:
            files[city] = set(os.listdir(city_folder)) if os.path.isdir(city_folder) else set()
        candidates = [f"{frame}_gtFine_{kind}.png" for kind in kinds]
        name = next((name for name in candidates if name in files[city]), None)
        if name is None:
            missing.append(f"Label file {os.path.join(city_folder, candidates[-1])} is missing.")
        else:
            found.append((f"{city}/{frame}", image, os.path.join(city_folder, name)))
    report(missing)
    return found
