"""What each form of a data set gets, as a table: python -m benchmarks.data_forms > table.md

Every form is written as a small data set of three images and three objects, opened by
DATASETS.EXTRA, and evaluated with predictions made from its ground truth. With --coco-size, load
time and memory of a made-up file of the size of instances_train2017, beside detectron2's loader.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from deepfuse_d2.data import register_extra
from deepfuse_d2.data.records.tally import tally_of
from deepfuse_d2.errors import UserError
from deepfuse_d2.evaluation import COCOInstanceEvaluator
from deepfuse_d2.evaluation.perfect import perfect_output
from tests.data.forms import (
    CHANGED_FORMS,
    CLASSES,
    FORMS,
    KEYPOINT_FORMS,
    LABEL_FORMS,
    OKS_SIGMAS,
)

_NAME = "tried_form"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--coco-size", action="store_true", help="time a large file instead")
    parser.add_argument("--images", type=int, default=118_000, help="of the large file")
    parser.add_argument("--annotations", type=int, default=860_000, help="of the large file")
    parser.add_argument(
        "--load", nargs=3, metavar=("WHO", "JSON", "FOLDER"), help=argparse.SUPPRESS
    )
    args = parser.parse_args(argv)
    if args.load:
        _load(*args.load)
    elif args.coco_size:
        _compare(args.images, args.annotations)
    else:
        print(table())


def table() -> str:
    from tabulate import tabulate

    forms = {**FORMS, **LABEL_FORMS, **KEYPOINT_FORMS, **CHANGED_FORMS}
    rows = [[name, *_tried(write)] for name, write in forms.items()]
    return tabulate(rows, ["form", "result", "said"], tablefmt="pipe")


def _tried(write: Callable[[Path], dict[str, Any]]) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            register_extra([{"NAME": _NAME, **write(root)}])
            records = DatasetCatalog.get(_NAME)
            evaluator = COCOInstanceEvaluator(_NAME, oks_sigmas=OKS_SIGMAS)
            evaluator.reset()
            for record in records:
                evaluator.process([record], [perfect_output(record)])
            results = evaluator.evaluate()
            scores = ", ".join(f"{task} AP {one['AP']:.4g}" for task, one in results.items())
            said = "; ".join(tally_of(_NAME).lines())
            count = len(MetadataCatalog.get(_NAME).thing_classes)
            return f"{scores} ({count} {'class' if count == 1 else 'classes'})", said
        except UserError as error:
            return "one error", str(error).replace(f"{folder}/", "").replace(folder, "")
        finally:
            for catalog in (DatasetCatalog, MetadataCatalog):
                catalog.pop(_NAME, None)


def _compare(num_images: int, num_annotations: int) -> None:
    """Both loaders in processes of their own, in turn; the best time of three, the peak of each."""
    with tempfile.TemporaryDirectory() as folder:
        path = _large_file(Path(folder), num_images, num_annotations)
        print(f"{path.stat().st_size / 2**20:.0f} MiB, {num_images:,} images, "
              f"{num_annotations:,} annotations")  # fmt: skip
        found: dict[str, list[list[float]]] = {"detectron2": [], "ours": []}
        for _ in range(2):
            for who, times in found.items():
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.data_forms", "--load",
                           who, str(path), str(Path(folder, "images"))]  # fmt: skip
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                times.append([float(x) for x in done.stdout.split()[-2:]])
        for who, times in found.items():
            seconds, peaks = zip(*times, strict=True)
            print(f"{who}: {min(seconds):.1f} s of CPU, peak {max(peaks):.0f} MiB")


def _load(who: str, path: str, images: str) -> None:
    import resource

    from detectron2.data.datasets import load_coco_json

    from deepfuse_d2.data.datasets.coco import load_coco

    start = time.process_time()
    load = load_coco if who == "ours" else load_coco_json
    records = load(path, images, "coco_large")
    seconds = time.process_time() - start
    assert sum(len(record["annotations"]) for record in records)
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _large_file(folder: Path, num_images: int, num_annotations: int) -> Path:
    """Polygons of 10 to 50 points, as COCO's are; a crowd in a hundred. Image files are empty."""
    draw = random.Random(0)
    os.mkdir(folder / "images")
    for number in range(num_images):
        (folder / "images" / f"{number:012d}.jpg").touch()
    names = [*CLASSES, *(f"class {n}" for n in range(78))]
    path = folder / "large.json"
    with open(path, "w") as file:
        images = [{"id": n, "file_name": f"{n:012d}.jpg", "height": 480, "width": 640}
                  for n in range(num_images)]  # fmt: skip
        categories = [{"id": n, "name": name} for n, name in enumerate(names, start=1)]
        file.write(f'{{"images": {json.dumps(images)}, "categories": {json.dumps(categories)}, '
                   '"annotations": [')  # fmt: skip
        for number in range(num_annotations):
            x, y = draw.uniform(0, 500), draw.uniform(0, 400)
            points = [round(base + draw.uniform(0, 80), 2)
                      for _ in range(draw.randint(10, 50)) for base in (x, y)]  # fmt: skip
            one: dict[str, Any] = {
                "id": number + 1, "image_id": draw.randrange(num_images),
                "category_id": draw.randint(1, len(names)), "iscrowd": 0, "area": 3200.5,
                "bbox": [round(x, 2), round(y, 2), 80.0, 80.0], "segmentation": [points],
            }  # fmt: skip
            if number % 100 == 0:
                start = draw.randrange(1000)
                counts = [start, 500, 480 * 640 - 500 - start]
                one |= {"iscrowd": 1, "segmentation": {"size": [480, 640], "counts": counts}}
            file.write(("" if number == 0 else ", ") + json.dumps(one))
        file.write("]}")
    return path


if __name__ == "__main__":
    main()
