#!/usr/bin/env python
"""Time the instance evaluation against detectron2's with the official script, on equal predictions.

    python tools/benchmark_evaluation.py --images 4 --masks 20 50 100
    python tools/benchmark_evaluation.py --parity-cases 1000      # figures compared, no timing

Prints Markdown. The predictions are synthetic: soft 28 x 28 masks with boxes, which each evaluator
gets in the form that it takes (full-image bool masks, COCO RLE, or as they are). Each row runs in a
process of its own, so that peak memory is its own; making predictions is not timed.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from evaluation_oracle.cases import CLASSES, LABEL_OF, random_case, street_frame
from evaluation_oracle.official import official_results, runnable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout, too

NAME = "benchmark_evaluation_instances"
VAL_FRAMES = 500  # of Cityscapes
FORMS = {
    "official": "detectron2 + official script",
    "bool": "ours, full-image masks",
    "rle": "ours, RLE",
    "unpasted": "ours, 28 x 28 masks",
}


@dataclass
class Measurement:
    """Seconds of process and evaluate together, MB above the predictions, AP in percent."""

    seconds: float
    peak_mb: float
    ap: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4, help="images that are evaluated")
    parser.add_argument("--masks", type=int, nargs="+", default=[20, 50, 100], help="an image")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
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
        print(parity(args.parity_cases))
        return
    print(
        f"{args.images} images of {args.width} x {args.height}, torch {torch.__version__}, "
        f"NumPy {np.__version__}, {torch.get_num_threads()} threads\n"
    )
    print(
        "| masks an image | evaluator | processes | s an image | min for 500 images "
        "| times as fast | peak memory above predictions, MB | AP | AP difference |"
    )
    print("|---:|:---|---:|---:|---:|---:|---:|---:|---:|")
    for count in args.masks:
        reference = None
        for form in args.forms:
            for processes in [1] if form == "official" else args.processes:
                result = measure(form, count, processes, args)
                if form == "official":
                    reference = result
                print(_row(count, form, processes, result, reference, args.images), flush=True)


def parity(cases: int) -> str:
    """Compare our figures with the official script's on random cases full of rare situations."""
    from cityscapesscripts.helpers.labels import labels

    from deepfuse_d2.evaluation.instance_ap import accumulate, average
    from deepfuse_d2.evaluation.instance_matching import match
    from deepfuse_d2.evaluation.mask_crops import crops_from_masks

    void = [x.id for x in labels if x.ignoreInEval]
    evaluated = list(LABEL_OF.values())
    worst = 0.0
    for seed in range(cases):
        frames = random_case(seed)
        with tempfile.TemporaryDirectory() as folder:
            expected, _ = official_results(frames, Path(folder))
        records = [
            match(
                str(number),
                frame.gt_map,
                crops_from_masks(frame.masks),
                [LABEL_OF[name] for name in frame.names],
                frame.scores,
                labels=evaluated,
                void_labels=void,
            )
            for number, frame in enumerate(frames)
        ]
        result = average(accumulate(records, evaluated), CLASSES)
        for key, value in expected.items():
            if np.isnan(value) and np.isnan(result[key]):
                continue
            difference = abs(result[key] - value)
            worst = max(worst, np.inf if np.isnan(difference) else difference)
    return f"{cases} random cases: largest difference of any figure {worst:.3g} points"


def measure(form: str, count: int, processes: int, args: argparse.Namespace) -> Measurement:
    """Run one row in processes of its own; seconds are those of the slowest, memory their sum."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        queue = context.Queue()
        options = (form, count, args.images, args.height, args.width, folder, queue)
        workers = [
            context.Process(target=_worker, args=(rank, processes, *options))
            for rank in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise SystemExit(f"The run of {FORMS[form]} with {count} masks failed; see above.")
        results = [queue.get() for _ in workers]
    return Measurement(
        seconds=max(x.seconds for x in results),
        peak_mb=sum(x.peak_mb for x in results),
        ap=max((x.ap for x in results if not np.isnan(x.ap)), default=float("nan")),
    )


def _worker(
    rank: int,
    processes: int,
    form: str,
    count: int,
    images: int,
    height: int,
    width: int,
    folder: str,
    queue: multiprocessing.Queue,
) -> None:
    """Evaluate every ``processes``-th image and put a Measurement."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

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
    dicts = [_entry(root, number) for number in range(images)]
    DatasetCatalog.register(NAME, lambda: dicts)
    MetadataCatalog.get(NAME).set(thing_classes=list(CLASSES), gt_dir=str(root / "gtFine" / "val"))
    evaluator = _build_evaluator(form)
    evaluator.reset()

    peak, seconds = 0.0, 0.0
    for number in range(rank, images, processes):
        output = _prepare(dicts[number], number, form, count, height, width)
        with _Peak() as memory:
            start = time.perf_counter()
            evaluator.process([dicts[number]], [output])
            seconds += time.perf_counter() - start
        peak = max(peak, memory.mb)
        del output
    if processes > 1:
        torch.distributed.barrier()  # waiting for the others' predictions is not evaluation
    with _Peak() as memory:
        start = time.perf_counter()
        if form == "official":
            with runnable(root):
                result = evaluator.evaluate()
        else:
            result = evaluator.evaluate()
        seconds += time.perf_counter() - start
    ap = result["segm"]["AP"] if result else float("nan")
    queue.put(Measurement(seconds, max(peak, memory.mb), ap))
    if processes > 1:
        torch.distributed.barrier()  # a rank that leaves early can take the other one down
        torch.distributed.destroy_process_group()


def _build_evaluator(form: str) -> object:
    if form == "official":
        from detectron2.evaluation import CityscapesInstanceEvaluator
    else:
        from deepfuse_d2.evaluation import CityscapesInstanceEvaluator
    return CityscapesInstanceEvaluator(NAME)


def _entry(root: Path, number: int) -> dict:
    stem = f"city_{number:06d}_000019"
    return {
        "file_name": str(root / "leftImg8bit" / "val" / "city" / f"{stem}_leftImg8bit.png"),
        "instance_file_name": str(
            root / "gtFine" / "val" / "city" / f"{stem}_gtFine_instanceIds.png"
        ),
    }


def _prepare(entry: dict, number: int, form: str, count: int, height: int, width: int) -> dict:
    """Write the ground truth of an image; return its predictions in the form asked for."""
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
    pasted = paste_masks_in_image(soft[:, 0], boxes, (height, width))
    if form == "rle":
        instances.pred_masks_rle = [
            coco_mask.encode(np.asfortranarray(mask.numpy().view(np.uint8))) for mask in pasted
        ]
    else:
        instances.pred_masks = pasted
    return {"instances": instances}


class _Peak:
    """Peak memory in MB in a ``with`` block, above what was held before (Linux; nan elsewhere)."""

    def __enter__(self) -> _Peak:
        self.mb = float("nan")
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is held now
        except OSError:
            self._before = None
        else:
            self._before = _status_kb("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self.mb = (_status_kb("VmHWM") - self._before) / 1024


def _status_kb(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise KeyError(name)


def _row(
    count: int,
    form: str,
    processes: int,
    result: Measurement,
    reference: Measurement | None,
    images: int,
) -> str:
    each = result.seconds / images
    cells = [
        str(count),
        FORMS[form],
        str(processes),
        f"{each:.4f}",
        f"{each * VAL_FRAMES / 60:.2f}",
        f"{reference.seconds / result.seconds:.1f}" if reference else "",
        f"{result.peak_mb:.0f}",
        f"{result.ap:.4f}",
        f"{abs(result.ap - reference.ap):.1e}" if reference else "",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
