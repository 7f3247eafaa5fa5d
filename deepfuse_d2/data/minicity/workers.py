"""Draws the frames of a manifest into a folder, on as many processes as wished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from .labels import COLORS, TRAIN_IDS
from .manifest import Manifest, frame_paths
from .render import render_frame

__all__ = ["draw_all", "main", "write_frame"]

_LABEL_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # newer OpenCV; one filter for all rows halves the time
    _LABEL_PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]
# Sensor noise has no repetitions to search for: Huffman codes alone are as small.
_IMAGE_PNG = [*_LABEL_PNG, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]


def write_frame(root: Path, manifest: Manifest, split: str, index: int) -> None:
    """Draw one frame and write its six files into folders that exist.

    Raises:
        OSError: a file cannot be written.
    """
    frame = render_frame(manifest.seed, split, index, manifest.width, manifest.height)
    paths = frame_paths(root, split, index)
    label_ids = frame.label_ids
    pictures = (
        cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR),
        frame.instance_ids,
        label_ids,
        TRAIN_IDS[label_ids],
        cv2.cvtColor(COLORS[label_ids], cv2.COLOR_RGB2BGRA),
    )
    for k, picture in enumerate(pictures):
        if not cv2.imwrite(
            str(paths[k]), np.ascontiguousarray(picture), _LABEL_PNG if k else _IMAGE_PNG
        ):
            raise OSError(f"cannot write {paths[k]}; is the disk full or the folder read-only?")
    objects = [{"label": label, "polygon": polygon.tolist()} for label, polygon in frame.objects]
    document = {"imgHeight": manifest.height, "imgWidth": manifest.width, "objects": objects}
    paths[-1].write_text(json.dumps(document, separators=(",", ":")))


def draw_all(
    root: Path, manifest: Manifest, workers: int | None, progress: Callable[[], None] | None
) -> None:
    """Draw every frame into ``root``, which holds the manifest; call ``progress`` after each.

    Worker processes are plain subprocesses that import the generator alone. They start in a third
    of a second, where multiprocessing would import torch first, and they also work from daemonic
    data-loader workers and from scripts without a main guard.

    Raises:
        RuntimeError: a worker failed; with what it said.
    """
    workers = min(workers or _cores(), manifest.num_train + manifest.num_val)
    for folder in {path.parent for path in manifest.files(root)}:
        folder.mkdir(parents=True, exist_ok=True)
    if workers == 1:
        for _ in _draw_share(root, manifest, 0, 1):
            if progress:
                progress()
        return
    package = Path(__file__).parent
    # below a package of our own name, without the file that would import torch
    code = (
        "import sys, types; data = sys.modules['data'] = types.ModuleType('data'); "
        "data.__path__ = [sys.argv[1]]; "
        f"from data.{package.name}.workers import main; main(*sys.argv[2:])"
    )
    command = [sys.executable, "-c", code, str(package.parent), str(root)]
    processes = [
        subprocess.Popen(
            [*command, str(k), str(workers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for k in range(workers)
    ]
    tick, said = threading.Lock(), [""] * workers

    def follow(k: int) -> None:
        for line in processes[k].stdout:
            if not line.strip().isdigit():
                said[k] += line
            elif progress:
                with tick:
                    progress()

    threads = [threading.Thread(target=follow, args=(k,), daemon=True) for k in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for k, process in enumerate(processes):
            if process.wait() != 0:
                raise RuntimeError(
                    f"MiniCity worker {k} stopped with exit code {process.returncode}; no frame "
                    f"was kept. It said:\n{said[k][-2000:]}"
                )
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # what this process may use, which can be less than all
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _draw_share(root: Path, manifest: Manifest, first: int, step: int) -> Iterator[int]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # one process a core; more threads would only get in each other's way
    try:
        for k, (split, index) in enumerate(manifest.frames()):
            if k % step == first:
                write_frame(root, manifest, split, index)
                yield k
    finally:
        cv2.setNumThreads(threads)


def main(root: str, first: str, step: str) -> None:
    """Entry of a worker process: draws every ``step``-th frame from ``first`` on.

    Each finished frame is one line on standard output. Should the parent die, writing that line
    fails and ends the worker.
    """
    manifest = Manifest.read(Path(root))
    for k in _draw_share(Path(root), manifest, int(first), int(step)):
        sys.stdout.write(f"{k}\n")
        sys.stdout.flush()
