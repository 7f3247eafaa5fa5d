#!/usr/bin/env python3
"""Makes MiniCity, the embedded street data set, in the layout of Cityscapes.

python datasets/prepare_minicity.py                      # 240 train / 60 val frames of 512 x 256
python datasets/prepare_minicity.py --width 1024 --height 512 --num-train 1000 --root /data/minicity
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

# Works from a checkout that is not installed, too. The generator needs neither torch nor
# detectron2, so it is imported on its own: the first frame is drawn seconds earlier.
sys.path.append(str(Path(__file__).resolve().parents[1] / "deepfuse_d2" / "data"))

from minicity import Manifest, generate_minicity


def main(argv: list[str] | None = None) -> int:
    default = Manifest()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "minicity",
        help="folder to make (default: $DETECTRON2_DATASETS/minicity, else datasets/minicity)",
    )
    parser.add_argument("--num-train", type=int, default=default.num_train)
    parser.add_argument("--num-val", type=int, default=default.num_val)
    parser.add_argument("--width", type=int, default=default.width, help="at most 2048")
    parser.add_argument("--height", type=int, default=default.height, help="at most 1024")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one a core)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a MiniCity of other parameters"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start, frames = time.perf_counter(), args.num_train + args.num_val
    try:
        with tqdm(total=frames, unit="frame", desc="MiniCity", delay=0.2) as bar:
            generate_minicity(
                args.root, num_train=args.num_train, num_val=args.num_val, width=args.width,
                height=args.height,
                seed=args.seed, workers=args.workers, overwrite=args.overwrite, progress=bar.update,
            )  # fmt: skip
            drawn = bar.n
    except (ValueError, OSError, RuntimeError) as error:
        print(f"prepare_minicity.py: {error}", file=sys.stderr)
        return 2
    if drawn:
        seconds = time.perf_counter() - start
        print(f"{drawn} frames in {seconds:.1f} s ({drawn / seconds:.1f} frames/s)")
    print(f"MiniCity lies at {args.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
