"""Run the official Cityscapes evaluations on a current NumPy.

The instance script of cityscapesScripts 2.3.0 stops on NumPy >= 2.3 (``np.in1d`` is gone, ``json``
refuses ``np.int64``), writes ``matches.json`` into the working directory, and stops with an
IndexError when all predictions of a class with ground truth are ignored (its issue 89).
:func:`runnable` repairs exactly that, for as long as it is entered, and leaves NumPy itself alone.
The script for pixels needs ``np.in1d`` only: :func:`runnable_pixels`.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from .cases import Frame


@contextmanager
def importable_by_detectron2() -> Iterator[None]:
    """Let detectron2's evaluators of Cityscapes find the scripts.

    Since 2024-12 detectron2's main branch asks for them as part of a package that one company has
    (its issue 5436).
    """
    import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling
    import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling
    import cityscapesscripts.helpers.labels  # noqa: F401

    parent = "deeplearning.projects.cityscapesApi"
    names = [parent.rsplit(".", count)[0] for count in (2, 1)] + [parent]
    aliases = {name: ModuleType(name) for name in names} | {
        f"{parent}.{name}": module
        for name, module in sys.modules.items()
        if name.split(".")[0] == "cityscapesscripts"
    }
    for name, module in aliases.items():
        outer, _, inner = name.rpartition(".")
        if outer in names:
            setattr(aliases[outer], inner, module)
    sys.modules.update(aliases)
    try:
        yield
    finally:
        for name in aliases:
            sys.modules.pop(name, None)


class _NumpyOfScript:
    """NumPy as the script expects it."""

    in1d = staticmethod(np.isin)

    def __getattr__(self, name: str) -> object:
        return getattr(np, name)

    @staticmethod
    def cumsum(values: np.ndarray) -> np.ndarray:
        # Issue 89: the script reads the last element of this sum. A 0 there is the number of true
        # examples, and its own formula then goes on to the end point of the curve: AP 0.
        return np.cumsum(values) if len(values) else np.zeros(1)


@contextmanager
def runnable(folder: Path) -> Iterator[object]:
    """Yield the instance script as a module that runs; what it writes goes into ``folder``."""
    import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as script

    def write_json(content: dict, path: str) -> None:
        with open(os.path.join(folder, path), "w") as file:  # an absolute path stays
            file.write(json.dumps(content, default=int, sort_keys=True, indent=4))

    with _changed(script, np=_NumpyOfScript(), writeDict2JSON=write_json):
        yield script


@contextmanager
def runnable_pixels() -> Iterator[object]:
    """Yield the script for pixel labels as a module that runs, without its compiled part."""
    import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as script

    with _changed(script, np=_NumpyOfScript(), CSUPPORT=False):
        script.args.JSONOutput = False
        yield script


@contextmanager
def _changed(script: object, **changed: object) -> Iterator[None]:
    """Change names of a script, and let it be quiet."""
    original = {name: getattr(script, name) for name in changed}
    original_args = dict(vars(script.args))
    try:
        vars(script).update(changed)
        script.args.quiet = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # mean of nothing: all classes nan
            yield
    finally:
        vars(script).update(original)
        vars(script.args).clear()
        vars(script.args).update(original_args)


def official_results(
    frames: Sequence[Frame], folder: Path, distances: Sequence[np.ndarray] | None = None
) -> tuple[dict[str, float], np.ndarray]:
    """Evaluate frames by the official script, by way of the files that detectron2 writes.

    Args:
        frames: ground truth and predictions.
        folder: an empty one.
        distances: (H, W) metres of each frame, nan where unknown.

    Returns:
        AP, AP50 and both of each class in percent, with distances AP100m and AP50m before the
        classes', and the matrix (classes, overlaps) in 0 .. 1.
    """
    from cityscapesscripts.helpers.labels import name2label

    ground_truths, predictions = [], []
    for number, frame in enumerate(frames):
        gt_file = folder / f"city_{number:06d}_000019_gtFine_instanceIds.png"
        Image.fromarray(frame.gt_map.astype(np.uint16)).save(gt_file)
        ground_truths.append(str(gt_file))
        text_file = folder / f"city_{number:06d}_000019_leftImg8bit_pred.txt"
        lines = []
        for index, (mask, name, score) in enumerate(
            zip(frame.masks, frame.names, frame.scores, strict=True)
        ):
            png = f"{number}_{index}_{name}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / png)
            lines.append(f"{png} {name2label[name].id} {float(score)}\n")
        text_file.write_text("".join(lines))
        predictions.append(str(text_file))

    with runnable(folder) as script:
        script.args.predictionPath = str(folder)
        script.args.gtInstancesFile = str(folder / "gtInstances.json")
        script.args.JSONOutput = False
        if distances is not None:
            script.args.distanceAvailable = True
            instances = _with_distances(script.instances2dict(ground_truths), frames, distances)
            script.writeDict2JSON(instances, script.args.gtInstancesFile)
        result = script.evaluateImgLists(predictions, ground_truths, script.args)
    averages = result["averages"]
    flat = {"AP": averages["allAp"], "AP50": averages["allAp50%"]}
    if distances is not None:
        flat |= {"AP100m": averages["allAp100m"], "AP50m": averages["allAp50m"]}
    for name, values in averages["classes"].items():
        flat[f"AP-{name}"], flat[f"AP50-{name}"] = values["ap"], values["ap50%"]
    flat = {key: 100.0 * float(value) for key, value in flat.items()}
    return flat, np.array(result["resultApMatrix"])[0]


def _with_distances(
    instances: dict, frames: Sequence[Frame], distances: Sequence[np.ndarray]
) -> dict:
    """Fill in what the script's table of instances leaves at -1 and 0, by its plain meaning."""
    for of_image, frame, metres in zip(instances.values(), frames, distances, strict=True):
        for instance in (x for of_label in of_image.values() for x in of_label):
            inside = metres[frame.gt_map == instance["instID"]]
            known = inside[~np.isnan(inside)]
            instance["distConf"] = len(known) / len(inside)
            if len(known):
                instance["medDist"] = float(np.median(known))
    return instances


def official_pixel_results(
    frames: Sequence[tuple[np.ndarray, np.ndarray]], folder: Path
) -> dict[str, float]:
    """Evaluate pixel labels by the official script.

    Args:
        frames: instance ids and predicted label ids, both (H, W), of each image.
        folder: an empty one.

    Returns:
        IoU, iIoU, IoU_sup, iIoU_sup, and each of a class or category behind a dash, in percent.
    """
    ground_truths, predictions = [], []
    for number, (ids, predicted) in enumerate(frames):
        stem = f"city_{number:06d}_000019"
        label_ids = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
        Image.fromarray(ids.astype(np.uint16)).save(folder / f"{stem}_gtFine_instanceIds.png")
        ground_truths.append(str(folder / f"{stem}_gtFine_labelIds.png"))
        predictions.append(str(folder / f"{stem}_pred.png"))
        Image.fromarray(label_ids).save(ground_truths[-1])
        Image.fromarray(predicted.astype(np.uint8)).save(predictions[-1])
    with runnable_pixels() as script:
        result = script.evaluateImgLists(predictions, ground_truths, script.args)
    flat = {
        "IoU": result["averageScoreClasses"],
        "iIoU": result["averageScoreInstClasses"],
        "IoU_sup": result["averageScoreCategories"],
        "iIoU_sup": result["averageScoreInstCategories"],
    }
    for prefix, key in (
        ("IoU", "classScores"),
        ("iIoU", "classInstScores"),
        ("IoU_sup", "categoryScores"),
        ("iIoU_sup", "categoryInstScores"),
    ):
        flat |= {f"{prefix}-{name}": value for name, value in result[key].items()}
    return {key: 100.0 * float(value) for key, value in flat.items()}
