#!/usr/bin/env python3
"""Draw the instances a model finds in images.

python tools/demo.py --config-file configs/... --weights model_final.pth --input a.jpg folder/ \
    --output results/
"""

import argparse
import sys
from pathlib import Path

import cv2
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from deepfuse_d2.engine import SafePredictor, check_config, load_config
from deepfuse_d2.errors import UserError
from deepfuse_d2.visualization import draw_predictions

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument(
        "--input", required=True, type=Path, nargs="+", metavar="PATH", help="images or folders"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score drawn")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, help="config overrides KEY VALUE ...")
    args = parser.parse_args()
    try:
        run(args)
    except UserError as error:
        sys.exit(f"demo.py: {error}")


def run(args: argparse.Namespace) -> None:
    images = find_images(args.input)
    cfg = load_config(args.config_file, [*(args.opts or []), "MODEL.WEIGHTS", args.weights])
    check_config(cfg)
    predictor = SafePredictor(cfg)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    args.output.mkdir(parents=True, exist_ok=True)

    unreadable = []
    for path, name in tqdm(images, desc="Images", unit="image"):
        image = cv2.imread(str(path))
        if image is None:
            unreadable.append(path)
            continue
        instances = predictor(image)["instances"]
        instances = instances[instances.scores >= args.threshold]
        cv2.imwrite(str(args.output / name), draw_predictions(image, instances, metadata))
    print(f"Wrote {len(images) - len(unreadable)} images to {args.output}")
    if unreadable:
        sys.exit(f"demo.py: not readable as images, skipped: {', '.join(map(str, unreadable))}")


def find_images(inputs: list[Path]) -> list[tuple[Path, str]]:
    """Images among `inputs` and in its folders, each with a name for its result, all different."""
    paths = []
    for path in inputs:
        if path.is_dir():
            paths += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            paths.append(path)
        else:
            raise UserError(f"{path} is neither a file nor a folder.")
    if not paths:
        raise UserError(
            f"no images in {', '.join(map(str, inputs))}; an image ends in one of "
            f"{', '.join(sorted(SUFFIXES))}."
        )
    names: dict[str, int] = {}
    images = []
    for path in paths:
        count = names[path.stem] = names.get(path.stem, 0) + 1
        # two folders may hold files of one name
        images.append((path, f"{path.stem}.png" if count == 1 else f"{path.stem}_{count}.png"))
    return images


if __name__ == "__main__":
    main()
