#!/usr/bin/env python
"""Time the evaluators against detectron2's with the official scripts, on equal predictions.

    python -m benchmarks.evaluation --images 4 --masks 20 50 100
    python -m benchmarks.evaluation --task pixels
    python -m benchmarks.evaluation --parity-cases 1000      # figures compared, no timing

Prints Markdown. The predictions are synthetic: soft 28 x 28 masks with boxes, or label maps and
logits, which each evaluator gets in the form that it takes. Each row runs in processes of its own,
so that peak memory is its own; making predictions is not timed. "Second time": the images have been
evaluated before, so that their ground truth is in the cache of the data set.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch

from benchmarks.evaluation_oracle.cases import CLASSES, street_frame
from benchmarks.evaluation_oracle.measuring import CLOCKS, Meter
from benchmarks.evaluation_oracle.official import runnable, runnable_pixels
from benchmarks.evaluation_oracle.parity import instance_difference, pixel_difference
from benchmarks.machine import measure_machine

NAME = "benchmark_evaluation"
VAL_FRAMES = 500  # of Cityscapes
# task -> form -> what it is; each of ours is compared with the last one before it that is not.
FORMS = {
    "instances": {
        "official": "detectron2 + official script",
        "bool": "ours, full-image masks",
        "bool again": "ours, full-image masks, second time",
        "rle": "ours, RLE",
        "rle again": "ours, RLE, second time",
        "unpasted": "ours, 28 x 28 masks",
        "unpasted again": "ours, 28 x 28 masks, second time",
        "pasted": "ours, 28 x 28 masks, pasted before",
    },
    "pixels": {
        "script": "official script, from PNGs",
        "maps": "ours, label maps",
        "maps again": "ours, label maps, second time",
        "official": "detectron2 + official script, logits",
        "logits": "ours, logits",
        "logits again": "ours, logits, second time",
    },
}


@dataclass
class Measurement:
    """Seconds of process and evaluate together, MB above the predictions, figures in percent."""

    seconds: float
    peak_mb: float
    figures: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="instances", choices=list(FORMS))
    parser.add_argument("--images", type=int, default=4, help="images that are evaluated")
    parser.add_argument("--masks", type=int, nargs="+", default=[20, 50, 100], help="an image")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--forms", nargs="+", help="rows to measure; default: all of the task")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=list(CLOCKS),
        help="cpu: seconds of CPU, for a machine that is busy with other work, too",
    )
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1], help="numbers of processes for ours"
    )
    parser.add_argument(
        "--parity-cases",
        type=int,
        metavar="N",
        help="instead of timing, compare N random cases and print the largest difference",
    )
    args = parser.parse_args()
    if args.parity_cases:
        print(f"{args.parity_cases} random cases each, largest difference of any figure in points:")
        print(f"instance AP {instance_difference(args.parity_cases):.3g}")
        print("IoU {:.3g}, iIoU {:.3g}".format(*pixel_difference(args.parity_cases)))
        return
    forms = FORMS[args.task]
    args.forms = args.forms or list(forms)
    if set(args.forms) - set(forms):
        parser.error(f"--forms {args.forms}: --task {args.task} has {list(forms)}")
    print(
        f"{measure_machine('cpu')}\n{args.images} images of {args.width} x {args.height}, "
        f"NumPy {np.__version__}, {args.clock} seconds\n"
    )
    figures = " | ".join(f"{x} | {x} difference" for x in _figures(args.task))
    print(
        "| masks an image | evaluator | processes | s an image | min for 500 images "
        f"| times as fast | peak memory above predictions, MB | {figures} |"
    )
    print("|---:|:---|---:|---:|---:|---:|---:|" + "---:|---:|" * len(_figures(args.task)))
    for count in args.masks if args.task == "instances" else [0]:
        reference = None
        for form in args.forms:
            is_ours = forms[form].startswith("ours")
            for processes in args.processes if is_ours else [1]:
                result = measure(form, count, processes, args)
                if not is_ours:
                    reference = result
                print(_row(count, forms[form], processes, result, reference, args.images))
                sys.stdout.flush()


def _figures(task: str) -> list[str]:
    return ["AP"] if task == "instances" else ["IoU", "iIoU"]


def measure(form: str, count: int, processes: int, args: argparse.Namespace) -> Measurement:
    """Run one row in processes of its own; seconds are those of the slowest, memory their sum."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        queue = context.Queue()
        options = (form, count, args, folder, queue)
        workers = [
            context.Process(target=_worker, args=(rank, processes, *options))
            for rank in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise SystemExit(f"The run of {FORMS[args.task][form]} failed; see above.")
        results = [queue.get() for _ in workers]
    return Measurement(
        seconds=max(x.seconds for x in results),
        peak_mb=sum(x.peak_mb for x in results),
        figures=next(x.figures for x in results if x.figures),
    )


def _worker(
    rank: int,
    processes: int,
    form: str,
    count: int,
    args: argparse.Namespace,
    folder: str,
    queue: multiprocessing.Queue,
) -> None:
    """Evaluate every ``processes``-th image and put a Measurement."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from deepfuse_d2.data.datasets.cityscapes import cityscapes_metadata

    logging.getLogger("deepfuse_d2").setLevel(logging.ERROR)
    if processes > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/rendezvous",
            rank=rank,
            world_size=processes,
            timeout=timedelta(minutes=10),
        )
    root = Path(folder)
    dicts = [_entry(root, number) for number in range(args.images)]
    DatasetCatalog.register(NAME, lambda: dicts)
    metadata = {**cityscapes_metadata("sem_seg"), "gt_dir": str(root / "gtFine" / "val")}
    MetadataCatalog.get(NAME).set(**metadata)
    form, _, again = form.partition(" ")
    evaluator = _build_evaluator(args.task, form)
    evaluator.reset()

    prepare = _prepare if args.task == "instances" else _prepare_pixels
    meter = Meter(args.clock)
    for number in range(rank, args.images, processes):
        output = prepare(dicts[number], number, form, count, args.height, args.width)
        if again:
            _build_evaluator(args.task, form).process([dicts[number]], [output])
        with meter:
            evaluator.process([dicts[number]], [output() if callable(output) else output])
        del output
    if processes > 1:
        torch.distributed.barrier()  # waiting for the others' predictions is not evaluation
    made_to_run = nullcontext()
    if form in ("official", "script"):
        made_to_run = runnable(root) if args.task == "instances" else runnable_pixels()
    with made_to_run, meter:
        result = evaluator.evaluate()
    result = next(iter(result.values())) if result else {}
    figures = [result[key] for key in _figures(args.task)] if result else []
    queue.put(Measurement(meter.seconds, meter.peak_mb, figures))
    if processes > 1:
        torch.distributed.barrier()  # a rank that leaves early can take the other one down
        torch.distributed.destroy_process_group()


def _build_evaluator(task: str, form: str) -> object:
    if form == "script":
        return _ScriptAlone()
    if form == "official":
        from detectron2 import evaluation
    else:
        from deepfuse_d2 import evaluation
    kind = "Instance" if task == "instances" else "SemSeg"
    return getattr(evaluation, f"Cityscapes{kind}Evaluator")(NAME)


class _ScriptAlone:
    """The official script for pixels on PNGs that were written before."""

    def reset(self) -> None:
        self._pairs: list[tuple[str, str]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        self._pairs += [
            (output["png"], entry["label_file_name"])
            for entry, output in zip(inputs, outputs, strict=True)
        ]

    def evaluate(self) -> dict:
        import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as script

        result = script.evaluateImgLists(*map(list, zip(*self._pairs, strict=True)), script.args)
        averages = {"IoU": "averageScoreClasses", "iIoU": "averageScoreInstClasses"}
        return {"sem_seg": {key: 100 * result[name] for key, name in averages.items()}}


def _entry(root: Path, number: int) -> dict:
    stem = f"city_{number:06d}_000019"
    return {
        "file_name": str(root / "leftImg8bit" / "val" / "city" / f"{stem}_leftImg8bit.png"),
        "instance_file_name": str(
            root / "gtFine" / "val" / "city" / f"{stem}_gtFine_instanceIds.png"
        ),
        "label_file_name": str(root / "gtFine" / "val" / "city" / f"{stem}_gtFine_labelIds.png"),
    }


def _prepare(
    entry: dict, number: int, form: str, count: int, height: int, width: int
) -> dict | Callable[[], dict]:
    """Write the ground truth of an image; return its predictions, or a function to make them."""
    from detectron2.layers import paste_masks_in_image
    from detectron2.structures import Boxes, Instances
    from PIL import Image
    from pycocotools import mask as coco_mask

    gt_map, soft, boxes, names, scores = street_frame(number, count, height=height, width=width)
    path = Path(entry["instance_file_name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(gt_map).save(path)
    instances = Instances((height, width))
    instances.scores = torch.from_numpy(scores)
    instances.pred_classes = torch.tensor([CLASSES.index(name) for name in names])
    soft, boxes = torch.from_numpy(soft), Boxes(torch.from_numpy(boxes))
    if form == "unpasted":
        instances.pred_masks, instances.pred_boxes = soft, boxes
        return {"instances": instances}
    if form == "pasted":

        def paste() -> dict:
            instances.pred_masks = paste_masks_in_image(soft[:, 0], boxes, (height, width))
            return {"instances": instances}

        return paste
    pasted = paste_masks_in_image(soft[:, 0], boxes, (height, width))
    if form == "rle":
        instances.pred_masks_rle = [
            coco_mask.encode(np.asfortranarray(mask.numpy().view(np.uint8))) for mask in pasted
        ]
    else:
        instances.pred_masks = pasted
    return {"instances": instances}


def _prepare_pixels(
    entry: dict, number: int, form: str, _count: int, height: int, width: int
) -> dict:
    """Write the ground truth of an image; return what a fair model predicts."""
    from cityscapesscripts.helpers.labels import id2label
    from PIL import Image

    ids, *_ = street_frame(number, 0, height=height, width=width)
    label_ids = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
    for array, key in ((ids, "instance_file_name"), (label_ids, "label_file_name")):
        path = Path(entry[key])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    train_id = np.array([id2label[x].trainId if x in id2label else 255 for x in range(34)])
    predicted = train_id[label_ids]
    predicted[predicted == 255] = 0
    predicted = np.roll(predicted, (3, 5), axis=(0, 1)).astype(np.uint8)  # errors along contours
    predicted[:, : width // 10] = number % 19
    if form == "maps":
        return {"sem_seg": torch.from_numpy(predicted)}
    if form == "script":
        label_id = np.array(
            [
                x.id
                for x in sorted(id2label.values(), key=lambda x: x.trainId)
                if 0 <= x.trainId < 19
            ],
            dtype=np.uint8,
        )
        png = str(Path(entry["label_file_name"]).parent / f"pred_{number}.png")
        Image.fromarray(label_id[predicted]).save(png)
        return {"png": png}
    generator = torch.Generator().manual_seed(number)
    logits = torch.rand(19, height, width, generator=generator)
    logits.scatter_add_(0, torch.from_numpy(predicted).long()[None], torch.ones(1, height, width))
    return {"sem_seg": logits}


def _row(
    count: int,
    name: str,
    processes: int,
    result: Measurement,
    reference: Measurement | None,
    images: int,
) -> str:
    each = result.seconds / images
    cells = [
        str(count or ""),
        name,
        str(processes),
        f"{each:.4f}",
        f"{each * VAL_FRAMES / 60:.2f}",
        f"{reference.seconds / result.seconds:.1f}" if reference else "",
        f"{result.peak_mb:.0f}",
    ]
    for index, figure in enumerate(result.figures):
        difference = abs(figure - reference.figures[index]) if reference else float("nan")
        cells += [f"{figure:.4f}", f"{difference:.1e}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
