"""Writes a MiniCity in Cityscapes' folder layout, with several processes, and never a half one
that looks whole.

A set is drawn into ``<root>.partial`` and moved to ``<root>`` when every frame is there; its
manifest ``minicity.json`` comes last. The frames on disk depend on seed, size and index alone, not
on the number of workers.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["VERSION", "Manifest", "ensure_minicity", "generate_minicity", "is_complete"]

VERSION = 1  # raise it whenever the same seed gives other bytes than before
MANIFEST = "minicity.json"
MAX_SIZE = (2048, 1024)
_MIN_SIZE = (128, 64)
_FOLDERS = ("leftImg8bit", "gtFine")
_FILES = (
    "leftImg8bit.png", "gtFine_instanceIds.png", "gtFine_labelIds.png",
    "gtFine_labelTrainIds.png", "gtFine_color.png", "gtFine_polygons.json",
)  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """What a MiniCity was made of."""

    version: int = VERSION
    seed: int = 0
    width: int = 512
    height: int = 256
    num_train: int = 240
    num_val: int = 60

    def __post_init__(self) -> None:
        for name, low, high in (
            ("width", _MIN_SIZE[0], MAX_SIZE[0]), ("height", _MIN_SIZE[1], MAX_SIZE[1]),
            ("num_train", 0, 10**6), ("num_val", 0, 10**6), ("seed", 0, 2**63),
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"MiniCity: {name} = {value!r}; give a whole number from {low} to {high}"
                )
        if self.num_train + self.num_val == 0:
            raise ValueError("MiniCity: num_train = num_val = 0; ask for at least one frame")

    def frames(self) -> Iterator[tuple[str, int]]:
        """(split, index) of every frame."""
        for split, count in (("train", self.num_train), ("val", self.num_val)):
            yield from ((split, k) for k in range(count))

    @classmethod
    def read(cls, root: Path) -> Manifest | None:
        """The manifest in ``root``; None where there is none or it cannot be read."""
        try:
            return cls(**json.loads((root / MANIFEST).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, root: Path) -> None:
        (root / MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n")


def _paths(root: Path, split: str, index: int) -> list[Path]:
    from .render import frame_name

    name = frame_name(split, index)
    city = name.split("_")[0]
    return [
        root / _FOLDERS[k > 0] / split / city / f"{name}_{suffix}"
        for k, suffix in enumerate(_FILES)
    ]


def is_complete(root: str | os.PathLike) -> bool:
    """Whether ``root`` holds every file that its manifest promises."""
    root = Path(root)
    manifest = Manifest.read(root)
    return manifest is not None and all(
        path.is_file() for split, k in manifest.frames() for path in _paths(root, split, k)
    )


def write_frame(root: Path, manifest: Manifest, split: str, index: int) -> None:
    """Draws one frame and writes its six files."""
    import cv2
    import numpy as np

    from .labels import COLORS, TRAIN_IDS
    from .render import render_frame

    frame = render_frame(manifest.seed, split, index, manifest.width, manifest.height)
    paths = _paths(root, split, index)
    for folder in {path.parent for path in paths}:
        folder.mkdir(parents=True, exist_ok=True)
    label_ids = frame.label_ids
    color = cv2.cvtColor(COLORS[label_ids], cv2.COLOR_RGB2BGRA)
    pictures = (
        cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR),
        frame.instance_ids,
        label_ids,
        TRAIN_IDS[label_ids],
        color,
    )
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    if hasattr(
        cv2, "IMWRITE_PNG_FILTER"
    ):  # OpenCV >= 4.11; one filter for all rows halves the time
        fast += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]
    # Noise has no repetitions to search for: Huffman codes alone are as small.
    noisy = [*fast, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
    for k, (path, picture) in enumerate(zip(paths, pictures, strict=False)):
        if not cv2.imwrite(str(path), np.ascontiguousarray(picture), fast if k else noisy):
            raise OSError(
                f"MiniCity: cannot write {path}; is the disk full or the folder read-only?"
            )
    objects = [{"label": label, "polygon": polygon.tolist()} for label, polygon in frame.objects]
    document = {"imgHeight": manifest.height, "imgWidth": manifest.width, "objects": objects}
    paths[-1].write_text(json.dumps(document, separators=(",", ":")))


def generate_minicity(
    root: str | os.PathLike,
    *,
    num_train: int = 240,
    num_val: int = 60,
    width: int = 512,
    height: int = 256,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[], None] | None = None,
) -> None:
    """Makes a MiniCity in ``root``, a folder that need not exist.

    Args:
        num_train, num_val: frames of either split.
        width, height: size in pixels, at most 2048 x 1024.
        seed: the same seed gives the same bytes, on any number of workers.
        workers: processes; None takes one a core.
        overwrite: replace a MiniCity of other parameters. Files that MiniCity did not write are
            never touched.
        progress: called after each frame.

    Raises:
        ValueError: a parameter is out of range.
        FileExistsError: ``root`` holds something else, or a MiniCity of other parameters and not
            ``overwrite``.
    """
    manifest = Manifest(VERSION, seed, width, height, num_train, num_val)
    if workers is not None and workers < 1:
        raise ValueError(f"MiniCity: workers = {workers}; give 1 or more, or None for one a core")
    root = Path(root).absolute()
    with _lock(root):
        _generate(root, manifest, workers, overwrite, progress)


def ensure_minicity(root: str | os.PathLike) -> None:
    """Makes the default MiniCity in ``root`` unless a complete one is there, of whatever size.

    Any number of processes may call it at once: one draws, the others wait. A set with files
    missing is made again with its own parameters; one of another version of the generator is kept,
    with a warning.
    """
    root = Path(root).absolute()
    with _lock(root):
        manifest = Manifest.read(root)
        if manifest is None:
            logger.info("No MiniCity in %s yet: drawing 300 frames, which takes some seconds", root)
            manifest = Manifest()
        elif not is_complete(root):
            logger.warning("The MiniCity in %s lacks files: drawing it again", root)
        else:
            if manifest.version != VERSION:
                logger.warning(
                    "The MiniCity in %s is of version %d, this generator of %d: kept as it is; "
                    "python datasets/prepare_minicity.py --overwrite makes it anew",
                    root, manifest.version, VERSION,
                )  # fmt: skip
            return
        _generate(root, manifest, None, True, None)


def _generate(root: Path, manifest: Manifest, workers, overwrite: bool, progress) -> None:
    present = Manifest.read(root)
    if present is not None:
        complete = is_complete(root)
        if complete and present == manifest:
            logger.info("The MiniCity in %s is complete already", root)
            return
        if complete and not overwrite:
            raise FileExistsError(
                f"{root} holds a MiniCity of {present}, asked for was {manifest}; "
                "choose another folder, or pass overwrite=True (--overwrite) to replace it"
            )
    elif root.is_dir() and any(root.iterdir()):
        raise FileExistsError(
            f"{root} holds files but no {MANIFEST} of a MiniCity; choose another folder or empty it"
        )
    partial = root.with_name(root.name + ".partial")
    if partial.exists():
        _remove_own(partial)
    partial.mkdir(parents=True)
    manifest.write(partial)  # says whose folder this is, should we be interrupted
    _draw_all(partial, manifest, workers, progress)
    if present is not None:
        _remove_own(root)
    root.mkdir(parents=True, exist_ok=True)
    for name in _FOLDERS:
        _move_into(partial / name, root / name)
    os.replace(partial / MANIFEST, root / MANIFEST)
    _remove_own(partial)


def _move_into(source: Path, target: Path) -> None:
    if not target.exists():
        os.replace(source, target)
        return
    for child in source.iterdir():  # files of others are in the way; ours go beside them
        _move_into(child, target / child.name) if child.is_dir() else os.replace(
            child, target / child.name
        )


def _remove_own(root: Path) -> None:
    """Removes the files that a MiniCity's manifest names, and the folders that are empty then."""
    manifest = Manifest.read(root)
    (root / MANIFEST).unlink(missing_ok=True)  # first: from now on the set does not look complete
    for split, k in manifest.frames() if manifest else ():
        for path in _paths(root, split, k):
            path.unlink(missing_ok=True)
    for folder, _, _ in os.walk(root, topdown=False):
        if not os.listdir(folder):
            os.rmdir(folder)


def _draw_all(root: Path, manifest: Manifest, workers: int | None, progress) -> None:
    count = manifest.num_train + manifest.num_val
    workers = min(
        workers or len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else workers or os.cpu_count() or 1,
        count,
    )
    if workers == 1:
        for _ in _work(root, manifest, 0, 1):
            if progress:
                progress()
        return
    # Plain subprocesses that import this package alone: they start in a third of a second where
    # multiprocessing would import torch first, and they also work from daemonic data-loader
    # workers and unguarded scripts.
    package = Path(__file__).parent
    code = f"""if True:
        import sys
        sys.path.append(sys.argv[1])
        from {package.name}.writer import _main
        _main(sys.argv[2:])"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(package.parent), str(root), str(k), str(workers)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for k in range(workers)
    ]  # fmt: skip
    tick = threading.Lock()
    errors: dict[int, str] = {}

    def follow(k: int) -> None:
        for _ in processes[k].stdout:
            if progress:
                with tick:
                    progress()
        errors[k] = processes[k].stderr.read()

    threads = [threading.Thread(target=follow, args=(k,), daemon=True) for k in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for k, process in enumerate(processes):
            if process.wait() != 0:
                raise RuntimeError(
                    f"MiniCity: worker {k} failed; nothing was kept. It said:\n{errors[k][-2000:]}"
                )
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _work(root: Path, manifest: Manifest, first: int, step: int) -> Iterator[int]:
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # one process a core; more threads would only get in each other's way
    try:
        for k, (split, index) in enumerate(manifest.frames()):
            if k % step == first:
                write_frame(root, manifest, split, index)
                yield k
    finally:
        cv2.setNumThreads(threads)


def _main(argv: list[str]) -> None:
    """Entry of a worker process: folder, number of this worker, number of workers."""
    root = Path(argv[0])
    manifest = Manifest.read(root)
    for k in _work(root, manifest, int(argv[1]), int(argv[2])):
        sys.stdout.write(f"{k}\n")
        sys.stdout.flush()


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """One process at a time for this root; the lock dies with the process that holds it."""
    import portalocker

    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.with_name(f".{root.name}.lock"), "w") as file:
        portalocker.lock(file, portalocker.LOCK_EX)
        try:
            yield
        finally:
            portalocker.unlock(file)
