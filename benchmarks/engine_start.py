#!/usr/bin/env python3
"""How soon a process predicts in each engine, and the memory it takes.

    python -m benchmarks.engine_start --model FOLDER --image street.png

FOLDER is what ``deepfuse pack`` wrote; with ``--aot cpu`` and ``--int8`` its packages and integers
are among the engines. Each runs in a process of its own, after the imports: a predictor is made
("ready"), it sees the image ("first image"), and then again some times ("later", the median).
inductor starts with an empty cache on disk, and once more with what it left there. The peak is the
resident memory of the whole process, imports and all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from benchmarks.machine import measure_machine

AGAIN = 6
# name -> engine, dtype
CANDIDATES = {
    "native": ("native", "float32"),
    "native, bfloat16": ("native", "auto"),
    "eager": ("eager", "float32"),
    "inductor": ("inductor", "float32"),
    "inductor, again": ("inductor", "float32"),
    "aot": ("aot", "float32"),
    "openvino": ("openvino", "float32"),
    "openvino, int8": ("openvino", "int8"),
    "onnxruntime": ("onnxruntime", "float32"),
}
COLUMNS = ("ready, s", "first image, s", "later, ms", "peak, MB", "instances")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--image", required=True, type=Path, metavar="FILE")
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, metavar="ENGINE")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(args.model, args.image, *CANDIDATES[args.one])))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for name in tqdm(args.only or here(args.model), desc="Engines"):
            rows.append([name, *in_own_process(name, args.model, args.image, cache)])
    print(f"{measure_machine('cpu')}\n")
    print(tabulate(rows, ["engine", *COLUMNS], "pipe", disable_numparse=True,
                   colalign=["left"] + ["right"] * len(COLUMNS)))  # fmt: skip
    return 0


def here(model: Path) -> list[str]:
    """Of the candidates, those that are installed, and that the folder has parts of."""
    import torch

    from deepfuse_d2.inference.engines import ENGINES

    cpu = torch.device("cpu")
    left_out = {x for x in ENGINES if ENGINES[x].why_not(cpu)}
    if not (model / "aot" / "aot.json").is_file():
        left_out.add("aot")
    names = [name for name, (engine, _) in CANDIDATES.items() if engine not in left_out]
    if not (model / "int8.json").is_file():
        names = [name for name in names if CANDIDATES[name][1] != "int8"]
    return names


def in_own_process(name: str, model: Path, image: Path, cache: str) -> list[str]:
    """Cells of a row; what went wrong in the first of them."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.engine_start", "--model", str(model),
         "--image", str(image), "--one", name],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        return [(done.stderr.strip().splitlines() or ["failed"])[-1], *[""] * (len(COLUMNS) - 1)]
    found = json.loads(done.stdout.splitlines()[-1])
    return [
        f"{found['ready']:.1f}",
        f"{found['first']:.2f}",
        f"{1e3 * found['later']:.0f}",
        f"{found['peak']:.0f}",
        str(found["instances"]),
    ]


def measure(model: Path, image: Path, engine: str, dtype: str) -> dict[str, float]:
    """Seconds and MB of this process, which has done nothing before."""
    import resource

    from deepfuse_d2.inference import Predictor
    from deepfuse_d2.inference.reading import read_image

    pixels = read_image(image)
    start = time.perf_counter()
    predictor = Predictor(model, engine=engine, dtype=dtype, opts=["MODEL.DEVICE", "cpu"])
    ready = time.perf_counter()
    found = predictor(pixels)
    first = time.perf_counter()
    later = []
    for _ in range(AGAIN):
        begin = time.perf_counter()
        predictor(pixels)
        later.append(time.perf_counter() - begin)
    return {
        "ready": ready - start,
        "first": first - ready,
        "later": statistics.median(later),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "instances": len(found),
    }


if __name__ == "__main__":
    sys.exit(main())
