"""What the grid of a mask head costs: python -m benchmarks.mask_grid [DATASET]

Masks of the ground truth are cut to their boxes on grids of several sizes, as the targets of a
training are, pasted into the image, as predictions are, and evaluated.
"""

import argparse
import logging

import torch
from detectron2.data import DatasetCatalog
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from tabulate import tabulate

from deepfuse_d2.config.loading import load_config
from deepfuse_d2.data.mappers.instance_mapper import InstanceMapper
from deepfuse_d2.evaluation import COCOInstanceEvaluator


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("dataset", nargs="?", default="pennfudan_val")
    parser.add_argument("--detections", type=int, default=100, help="an image, for COCO's AP")
    args = parser.parse_args(argv)
    load_config("", ["MODEL.DEVICE", "cpu"])
    records = DatasetCatalog.get(args.dataset)
    logging.disable(logging.WARNING)
    mapper = InstanceMapper([], image_format="RGB")
    rows = []
    for size in (14, 28, 56, 112):
        evaluator = COCOInstanceEvaluator(args.dataset, max_detections=args.detections)
        for record in records:
            evaluator.process([record], [{"instances": _pasted(mapper(record), record, size)}])
        scores = evaluator.evaluate()["segm"]
        rows.append([f"{size} x {size}", *(scores[name] for name in ("AP", "AP50", "AP75"))])
    print(tabulate(rows, ["grid", "AP", "AP50", "AP75"], tablefmt="pipe", floatfmt=".1f"))


def _pasted(sample: dict, record: dict, size: int) -> Instances:
    """Predictions of the record's boxes, with its masks on a grid of `size` x `size`."""
    size_of_image = record["height"], record["width"]
    targets = sample["instances"]
    boxes = targets.gt_boxes.tensor
    grids = targets.gt_masks.crop_and_resize(boxes, size).float()
    found = Instances(size_of_image)
    found.pred_boxes = Boxes(boxes)
    found.scores = torch.linspace(1, 0.5, len(boxes))
    found.pred_classes = targets.gt_classes
    found.pred_masks = paste_masks_in_image(grids, found.pred_boxes, size_of_image)
    return found


if __name__ == "__main__":
    main()
