#!/usr/bin/env python3
"""Makes MiniFields, the embedded land-cover data set, in the layout of PASTIS-HD.

python datasets/prepare_minifields.py                  # 64 train / 16 val scenes, mode "mixed"
python datasets/prepare_minifields.py --mode xor       # beside it, in minifields_xor
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

# Works from a checkout that is not installed, too. The generator needs neither torch nor
# detectron2, so it is imported on its own.
sys.path.append(str(Path(__file__).resolve().parents[1] / "deepfuse_d2" / "data"))

from minifields import MODES, Manifest, best_accuracies, generate_minifields


def main(argv: list[str] | None = None) -> int:
    default = Manifest()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", choices=list(MODES), default=default.mode)
    parser.add_argument(
        "--root",
        type=Path,
        help="folder to make (default: minifields, or minifields_xor, in $DETECTRON2_DATASETS, "
        "else in datasets)",
    )
    parser.add_argument("--num-train", type=int, default=default.num_train)
    parser.add_argument("--num-val", type=int, default=default.num_val)
    parser.add_argument("--size", type=int, default=default.size, help="pixels of the series")
    parser.add_argument("--ratio", type=int, default=default.ratio, help="of image to series")
    parser.add_argument("--clouds", type=float, default=default.cloud_probability, metavar="P")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a MiniFields of other parameters"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    root = args.root or Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser() / (
        "minifields" if args.mode == "mixed" else f"minifields_{args.mode}"
    )
    start = time.perf_counter()
    try:
        manifest = Manifest(
            mode=args.mode, seed=args.seed, size=args.size, ratio=args.ratio,
            num_train=args.num_train, num_val=args.num_val, cloud_probability=args.clouds,
        )  # fmt: skip
        total = args.num_train + args.num_val
        with tqdm(total=total, unit="scene", desc="MiniFields", delay=0.2) as bar:
            generate_minifields(root, manifest, overwrite=args.overwrite, progress=bar.update)
            drawn = bar.n
    except (ValueError, OSError) as error:
        print(f"prepare_minifields.py: {error}", file=sys.stderr)
        return 2
    if drawn:
        print(f"{drawn} scenes in {time.perf_counter() - start:.1f} s")
    print(f"MiniFields lies at {root}")
    for split, folds in (("train", (1, 2, 3, 4)), ("val", (5,))):
        if any(fold in folds for _, fold in manifest.scenes()):
            best = {k: round(v, 2) for k, v in best_accuracies(root, folds).items()}
            print(f"Best possible accuracy on {split}, in percent: {json.dumps(best)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
