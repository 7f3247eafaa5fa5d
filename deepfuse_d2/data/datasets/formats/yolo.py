"""FORMAT yolo: folders of images and of text files with a polygon (or box) a line, and data.yaml.

    images/train/a.jpg      labels/train/a.txt: `class x y x y x y ...`, from 0 to 1
    data.yaml               names, and the folder (or list of files) of each split

DATA is the yaml or the folder that holds it; SPLIT a key of it. An image without a text file has no
object. Lines of four numbers are boxes: centre, width, height.
"""

import os
from pathlib import Path
from typing import Any

import yaml

from ....errors import DatasetError
from ...images import IMAGE_SUFFIXES, upright_size
from ...problems import report
from ...text_files import read_lines
from .annotated import image_entry, register_annotated
from .base import Format, check_class_names

__all__ = ["YOLO", "read_yolo"]

_YAMLS = ("data.yaml", "data.yml", "dataset.yaml")


def read_yolo(entry: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """COCO's content of a split, and the folder that its file names start from."""
    file = _yaml_file(Path(entry["DATA"]))
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{file} cannot be read as yaml: {error}") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{file} holds no mapping; expected names, train and val.")
    names = _names(data, file)
    root = file.parent
    images = _images(data, entry["SPLIT"], file)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    }
    problems = []
    for number, image in enumerate(images):
        try:
            height, width = upright_size(image)
        except DatasetError as error:
            problems.append(str(error))
            continue
        content["images"].append(image_entry(number, os.path.relpath(image, root), (height, width)))
        labels = _label_file(image)
        if not labels.is_file():
            continue
        lines = labels.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        for place, line in enumerate(lines, start=1):
            if line.strip():
                one = _annotation(line.split(), width, height)
                content["annotations"].append(
                    {"id": f"{labels.name}:{place}", "image_id": number, **one}
                )
    report(problems)
    return content, str(root)


def _annotation(words: list[str], width: int, height: int) -> dict[str, Any]:
    """A line as COCO has it; what is no number stays, to be counted by the one who cleans it."""
    kind: Any = words[0]
    try:
        kind = int(float(words[0]))
        numbers = [float(word) for word in words[1:]]
    except ValueError:
        return {"category_id": kind, "segmentation": [words[1:]]}
    if len(numbers) in (4, 5):  # the fifth is a score
        x, y, w, h = numbers[:4]
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        return {"category_id": kind, "bbox": box}
    points = [x * (height if place % 2 else width) for place, x in enumerate(numbers)]
    return {"category_id": kind, "segmentation": [points]}


def _yaml_file(path: Path) -> Path:
    if path.is_file():
        return path
    for name in _YAMLS:
        if (path / name).is_file():
            return path / name
    found = sorted(path.glob("*.y*ml")) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    raise DatasetError(f"{path} is no yaml file of YOLO, and no folder with {_YAMLS[0]}.")


def _names(data: dict, file: Path) -> dict[int, str]:
    names = data.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DatasetError(f"{file} has no names; expected a list, or a mapping of numbers.")
    try:
        return {int(number): str(name) for number, name in names.items()}
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{file}: names {names!r} are not numbered by whole numbers.") from error


def _images(data: dict, split: str, file: Path) -> list[Path]:
    known = [key for key, value in data.items()
             if key not in ("names", "path") and isinstance(value, (str, list))]  # fmt: skip
    if split == "valid" and "valid" not in data:
        split = "val"
    places = data.get(split)
    if not isinstance(places, (str, list)) or not places:
        raise DatasetError(f"{file} has no split {split!r}; it has {known}.")
    images = []
    for place in [places] if isinstance(places, str) else places:
        path = _found(str(place), str(data.get("path") or ""), file)
        if path.suffix == ".txt":
            images += [_found(line.strip(), str(path.parent), file) for line in read_lines(path)]
        elif path.is_dir():
            images += [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise DatasetError(f"{file}: split {split!r} ({places}) holds no image.")
    return sorted(images)


def _found(place: str, base: str, file: Path) -> Path:
    """A path of the yaml, which may start from `path`, from the yaml, or (Roboflow) above it."""
    place = place.replace("\\", "/")
    stripped = place
    while stripped.startswith(("../", "./")):
        stripped = stripped.split("/", 1)[1]
    tried = [file.parent / base / place, file.parent / place, file.parent / stripped]
    for path in tried:
        if path.exists():
            return path
    raise DatasetError(f"{file} names {place!r}, which does not exist; tried {tried[0]}.")


def _label_file(image: Path) -> Path:
    """images/.../a.jpg -> labels/.../a.txt, by the last folder of that name; else beside it."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            return Path(*parts).with_suffix(".txt")
    return image.with_suffix(".txt")


YOLO = Format(
    {"DATA": str, "SPLIT": str},
    {"CLASSES": list},
    ("DATA",),
    lambda entry: register_annotated(entry, read_yolo),
    check_class_names,
)
