#!/usr/bin/env python3
"""Draw what models find beside the ground truth, as one PNG to judge at a glance.

    python tools/compare_predictions.py --config-file configs/... --weights FILE --output FILE.png
    python tools/compare_predictions.py --output both.png --dataset camvid_sem_seg_test \\
        --config-file configs/A.yaml --weights a.pth --config-file configs/B.yaml --weights b.pth

Instances or labels of pixels, as the models have them; each model is a column.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from tqdm import tqdm

from deepfuse_d2.engine import check_config, load_config
from deepfuse_d2.errors import ConfigError, UserError
from deepfuse_d2.inference import Predictor
from deepfuse_d2.visualization import draw_annotations, draw_labels, draw_predictions, sheet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, action="append", metavar="FILE")
    parser.add_argument(
        "--weights", required=True, action="append", metavar="FILE", help="one for each config"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="PNG")
    parser.add_argument("--dataset", help="(default: the first of DATASETS.TEST)")
    parser.add_argument("--num", type=int, default=6, help="images, spread over the data set")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score drawn")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the drawing")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides KEY VALUE ...")
    args = parser.parse_args()
    try:
        compare(args)
    except UserError as error:
        sys.exit(f"compare_predictions.py: {error}")


def compare(args: argparse.Namespace) -> None:
    if len(args.config_file) != len(args.weights):
        raise ConfigError(
            f"--config-file is there {len(args.config_file)} times and --weights "
            f"{len(args.weights)} times; give one with each."
        )
    if args.num < 1:
        raise ConfigError(f"--num is {args.num}; it must be 1 or more.")
    configs = [load(*pair, args) for pair in zip(args.config_file, args.weights, strict=True)]
    dataset = configs[0].DATASETS.TEST[0]
    metadata = MetadataCatalog.get(dataset)
    records = DatasetCatalog.get(dataset)
    records = records[:: max(len(records) // args.num, 1)][: args.num]

    columns = [list(ground_truth(records, metadata, args.scale))]
    for name, cfg in zip(args.config_file, configs, strict=True):
        drawn = draw_model(cfg, records, metadata, args.threshold, args.scale)
        columns.append(list(tqdm(drawn, f"Drawing {Path(name).stem}", len(records), unit="image")))
    titles = [f"{dataset}: ground truth", *titles_of(args)]
    tiles = [tile for row in zip(*columns, strict=True) for tile in row]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(args.output), sheet(tiles, len(columns), titles)):
        sys.exit(f"compare_predictions.py: cannot write {args.output}; give a path ending in .png")
    print(f"Wrote {args.output}")


def load(config_file: str, weights: str, args: argparse.Namespace) -> CfgNode:
    cfg = load_config(config_file, [*args.opts, "MODEL.WEIGHTS", weights])
    if args.dataset:
        cfg.DATASETS.TEST = (args.dataset,)
    check_config(cfg)
    return cfg


def titles_of(args: argparse.Namespace) -> list[str]:
    if len(args.config_file) == 1:
        return [f"found (score over {args.threshold:g})"]
    names = [Path(name).stem for name in args.config_file]
    # of sem_seg_R_18_GCN and sem_seg_R_18_ExFuse, what tells them apart
    words = [name.split("_") for name in names]
    shared = 0
    while len({tuple(w[: shared + 1]) for w in words}) == 1 and all(len(w) > shared for w in words):
        shared += 1
    return ["_".join(w[shared:]) or name for w, name in zip(words, names, strict=True)]


def ground_truth(records: list[dict], metadata: Metadata, scale: float) -> Iterator[np.ndarray]:
    """Each image with its instances, or its labels where it has no instances."""
    for record in records:
        image = cv2.imread(record["file_name"])
        if "annotations" in record or not record.get("sem_seg_file_name"):
            yield draw_annotations(image, record, metadata, scale)
        else:
            labels = cv2.imread(record["sem_seg_file_name"], cv2.IMREAD_GRAYSCALE)
            yield draw_labels(scaled(image, scale), labels, metadata)


def draw_model(
    cfg: CfgNode, records: list[dict], metadata: Metadata, threshold: float, scale: float
) -> Iterator[np.ndarray]:
    """Each image with what a model finds."""
    predictor = Predictor(cfg)
    files = [record["file_name"] for record in records]
    for file, found in zip(files, predictor(iter(files)), strict=True):
        image = cv2.imread(file)
        if hasattr(found, "pred_boxes"):
            yield draw_predictions(image, found[found.scores >= threshold], metadata, scale)
        else:
            yield draw_labels(scaled(image, scale), np.asarray(found), metadata)


def scaled(image: np.ndarray, scale: float) -> np.ndarray:
    return image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale)


if __name__ == "__main__":
    main()
