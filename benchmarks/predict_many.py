#!/usr/bin/env python3
"""Images a second of predict-many, of plain loops, and of what the cores give; and its memory.

    python -m benchmarks.predict_many
    python -m benchmarks.predict_many --rounds 1 --images 100 --only plain processes local
    python -m benchmarks.predict_many --memory-images 5000 --only memory

Each candidate is a process of its own (with processes of its own) that loads the model, predicts a
few images and then is timed; all of them once a round, one after the other. "what the cores give"
are plain loops over Predictor, one process and thread a core, each with its share of the images.
The model is a Mask R-CNN with ResNet-18 and random weights that keep it busy.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.modeling import build_model

from benchmarks.application_faults.many_trials import children_of, workers_of
from benchmarks.calibrated_weights import calibrated_random_weights
from benchmarks.machine import measure_machine
from benchmarks.prediction_memory import busy_model
from benchmarks.prediction_memory import images as changing_images
from deepfuse_d2 import get_config
from deepfuse_d2.batch import predict_many
from deepfuse_d2.data.minicity.render import render_frame
from deepfuse_d2.inference import Predictor
from deepfuse_d2.inference.packing import pack
from deepfuse_d2.inference.processes import set_up_worker

RECIPE = "MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick"
CORES = len(os.sched_getaffinity(0))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), metavar=("H", "W"))
    parser.add_argument("--memory-images", type=int, default=5000)
    parser.add_argument("--only", nargs="+", choices=[*CANDIDATES, "memory"], default=None)
    parser.add_argument("--candidate", choices=CANDIDATES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.candidate:
        print(json.dumps(CANDIDATES[args.candidate](args.folder)))
        return 0
    only = args.only or [*CANDIDATES, "memory"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        packed_model(folder, args.size)
        write_images(folder / "photos", street_images(min(args.images, 50), args.size), args.images)
        names = [name for name in CANDIDATES if name in only]
        if names:
            compare(folder, names, args.rounds)
        if "memory" in only:
            memory(folder, args.memory_images)
    return 0


def compare(folder: Path, names: Sequence[str], rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            words = ["--candidate", name, "--folder", str(folder)]
            # of Ray: its processes ask for less of the cores than others unless told so
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.predict_many", *words],
                stdout=subprocess.PIPE, text=True, check=True,
                env={**os.environ, "RAY_worker_niceness": "0"},
            )  # fmt: skip
            rates[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1}: {name}: {rates[name][-1]:.2f}", file=sys.stderr, flush=True)
    print(f"{measure_machine('cpu')}\n")
    print("| program | images/s | of what the cores give |\n| --- | ---: | ---: |")
    for name in names:
        share = "-"
        if "processes" in rates:
            pairs = zip(rates[name], rates["processes"], strict=True)
            share = f"{statistics.median(a / b for a, b in pairs):.2f}"
        print(f"| {TITLES[name]} | {statistics.median(rates[name]):.1f} | {share} |", flush=True)


def detectron2(folder: Path) -> float:
    from detectron2.engine import DefaultPredictor

    from deepfuse_d2 import load_config
    from deepfuse_d2.checkpoint import DeepFuseCheckpointer

    torch.set_num_threads(CORES)
    cfg = load_config(str(folder / "model"), ["MODEL.DEVICE", "cpu"])
    weights, cfg.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS, ""
    predictor = DefaultPredictor(cfg)
    DeepFuseCheckpointer(predictor.model).load(weights)
    return loop(lambda path: predictor(cv2.imread(str(path))), photos(folder))


def plain(folder: Path) -> float:
    torch.set_num_threads(CORES)
    predictor = Predictor(folder / "model", output="rle", opts=["MODEL.DEVICE", "cpu"])
    return loop(predictor, photos(folder))


def processes(folder: Path) -> float:
    """Plain loops, a process a core; all begin when the last one is ready."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(CORES), context.Queue()
    started = [
        context.Process(target=one_of_many, args=(folder, k, barrier, queue)) for k in range(CORES)
    ]
    for process in started:
        process.start()
    spans = [queue.get() for _ in started]
    for process in started:
        process.join()
    seconds = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return len(photos(folder)) / seconds


def one_of_many(folder: Path, number: int, barrier, queue) -> None:
    set_up_worker(1)
    predictor = Predictor(folder / "model", output="rle", opts=["MODEL.DEVICE", "cpu"])
    mine = photos(folder)[number::CORES]
    for path in mine[:4]:
        predictor(path)
    barrier.wait()
    begin = time.time()  # of the machine, not of the process
    for path in mine:
        predictor(path)
    queue.put((begin, time.time()))


def local(folder: Path) -> float:
    return many(folder, "local")


def ray(folder: Path) -> float:
    return many(folder, "ray")


def many(folder: Path, engine: str) -> float:
    """From the first images that are reported on, when all processes have loaded, to the last."""
    import deepfuse_d2.batch.run as run

    seen: list[tuple[float, int]] = []

    def timed(job, missing, workers, report, real=run.ENGINES[engine]):
        def both(count: int) -> None:
            seen.append((time.perf_counter(), count))
            report(count)

        return real(job, missing, workers, both)

    run.ENGINES[engine] = timed
    with tempfile.TemporaryDirectory() as output:
        predict_many(
            str(folder / "model"), None, [folder / "photos"], output, engine=engine,
            workers=CORES, threads=1, batch_size=1, opts=["MODEL.DEVICE", "cpu"],
        )  # fmt: skip
    # the first tenth: processes that are not ready at the same time
    total = sum(count for _, count in seen)
    done, start = 0, 0
    while done < total / 10:
        done += seen[start][1]
        start += 1
    return (total - done) / (seen[-1][0] - seen[start - 1][0])


def memory(folder: Path, count: int) -> None:
    """MiB of the process and its children while it predicts thousands of small images.

    They are of 40 sizes, one in 50 is damaged, and the network is narrow.
    """
    model, cfg = busy_model()
    cfg.MODEL.WEIGHTS = str(folder / "narrow.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    narrow = pack(cfg, folder / "narrow")
    (folder / "small").mkdir()
    for number, image in enumerate(changing_images(count)):
        content = image if isinstance(image, bytes) else cv2.imencode(".jpg", image)[1].tobytes()
        (folder / "small" / f"{number:05d}.jpg").write_bytes(content)
    with tempfile.TemporaryDirectory() as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "deepfuse_d2", "predict-many", "--model",
             str(narrow), "--input", str(folder / "small"), "--output", output,
             "--workers", str(CORES), "--threads", "1", "--part-size", "100"],
        )  # fmt: skip
        total, curve = count // 100, {}
        done = threading.Event()
        while process.poll() is None:
            parts = len(list(Path(output).glob("part-*.parquet")))
            tenth = 10 * parts // total
            if tenth and tenth not in curve:
                curve[tenth] = family_mib(process.pid)
                print(f"{tenth}/10: {curve[tenth]:.0f} MiB", file=sys.stderr, flush=True)
            done.wait(0.2)
    values = [value for tenth, value in sorted(curve.items()) if tenth < 10]
    print(
        f"\n{100 * total} images: {', '.join(f'{value:.0f}' for value in values)} MiB after each "
        f"tenth; from the third to the last {values[-1] - values[min(2, len(values) - 1)]:+.0f}"
    )


def family_mib(pid: int) -> float:
    """Proportional memory of a process and its children (Linux)."""
    members = [pid, *children_of(pid), *workers_of(pid)]
    total = 0
    for member in members:
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def loop(predict: Callable, paths: Sequence[Path]) -> float:
    for path in paths[:4]:
        predict(path)
    start = time.perf_counter()
    for path in paths:
        predict(path)
    return len(paths) / (time.perf_counter() - start)


def packed_model(folder: Path, size: Sequence[int]) -> Path:
    """A model folder: busy, with random weights, for images of `size`."""
    limits = ["INPUT.MIN_SIZE_TEST", str(min(size)), "INPUT.MAX_SIZE_TEST", str(max(size))]
    cfg = get_config(RECIPE, ["MODEL.DEVICE", "cpu", *limits])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    frames = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in street_images(2, size)]
    calibrated_random_weights(model, [{"image": frame} for frame in frames], candidates=30)
    cfg.MODEL.WEIGHTS = str(folder / "weights.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    return pack(cfg, folder / "model")


def street_images(count: int, size: Sequence[int]) -> list[np.ndarray]:
    """Drawn streets, blue first."""
    return [
        np.asarray(render_frame(0, "val", k, size[1], size[0]).image)[:, :, ::-1]
        for k in range(count)
    ]


def write_images(folder: Path, images: Sequence[np.ndarray], count: int) -> None:
    folder.mkdir()
    contents = [cv2.imencode(".jpg", image)[1].tobytes() for image in images]
    for number in range(count):
        (folder / f"{number:05d}.jpg").write_bytes(contents[number % len(contents)])


def photos(folder: Path) -> list[Path]:
    return sorted((folder / "photos").iterdir())


CANDIDATES: dict[str, Callable[[Path], float]] = {
    "detectron2": detectron2, "plain": plain, "processes": processes, "local": local, "ray": ray,
}  # fmt: skip
TITLES = {
    "detectron2": "a loop over DefaultPredictor, all cores",
    "plain": "a loop over Predictor, all cores",
    "processes": "what the cores give",
    "local": "predict-many --engine local",
    "ray": "predict-many --engine ray",
}


if __name__ == "__main__":
    sys.exit(main())
