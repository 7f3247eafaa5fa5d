#!/usr/bin/env python3
"""Draw what a model finds beside the ground truth, as one PNG to judge at a glance.

python tools/compare_predictions.py --config-file configs/... --weights FILE --output FILE.png
"""

import argparse
import sys
from pathlib import Path

import cv2
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from deepfuse_d2.engine import SafePredictor, check_config, load_config
from deepfuse_d2.errors import UserError
from deepfuse_d2.visualization import draw_annotations, draw_predictions, sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, type=Path, metavar="PNG")
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
    cfg = load_config(args.config_file, [*args.opts, "MODEL.WEIGHTS", args.weights])
    check_config(cfg)
    dataset = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(dataset)
    records = DatasetCatalog.get(dataset)
    step = max(len(records) // args.num, 1)
    predictor = SafePredictor(cfg)

    tiles = []
    for record in tqdm(records[::step][: args.num], desc="Drawing", unit="image"):
        image = cv2.imread(record["file_name"])
        found = predictor(image)["instances"]
        found = found[found.scores >= args.threshold]
        tiles.append(draw_annotations(image, record, metadata, args.scale))
        tiles.append(draw_predictions(image, found, metadata, args.scale))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    titles = [f"{dataset}: ground truth", f"found (score over {args.threshold:g})"]
    if not cv2.imwrite(str(args.output), sheet(tiles, 2, titles)):
        sys.exit(f"compare_predictions.py: cannot write {args.output}; give a path ending in .png")
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
