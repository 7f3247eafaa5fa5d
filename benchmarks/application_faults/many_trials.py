"""One function a fault of predict-many: lets it happen, goes on, and looks at every row."""

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import PIL.Image
import pyarrow.dataset
import torch

from benchmarks.fault_injection.trials import Outcome
from benchmarks.prediction_memory import busy_model, images
from deepfuse_d2.inference import Predictor
from deepfuse_d2.inference.packing import pack

from .deadly import DEADLY, make_deadly
from .forked import ForkedCommand

__all__ = ["MANY_TRIALS", "ManyImages", "children_of", "workers_of"]


class ManyImages:
    """A packed model, images of which some are damaged, and what the model gives for each.

    Args:
        folder: for the model and the images.
        count: of images.
    """

    def __init__(self, folder: Path, count: int):
        self.folder, self.count = folder, count
        model, cfg = busy_model()
        cfg.MODEL.WEIGHTS = str(folder / "weights.pth")
        torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
        self.model = pack(cfg, folder / "model")
        self.photos = folder / "photos"
        self.photos.mkdir()
        for number, image in enumerate(images(count)):
            content = (
                image if isinstance(image, bytes) else cv2.imencode(".png", image)[1].tobytes()
            )
            (self.photos / f"{number:05d}.png").write_bytes(content)
        predictor = Predictor(self.model, output="rle", errors="return")
        self.expected = list(predictor.stream(self.photos))

    def started(self, output: Path, **more) -> ForkedCommand:
        words = [
            "predict-many", "--model", str(self.model), "--input", str(self.photos),
            "--output", str(output), "--workers", "2", "--threads", "1", "--batch", "1",
            "--part-size", "16",
        ]  # fmt: skip
        return ForkedCommand(words, self.folder / "log.txt", **more)

    def run(self, output: Path, **more) -> tuple[int, str]:
        """The exit code, and what it said."""
        return self.started(output, **more).end()

    def differences(self, output: Path, but: Sequence[int] = ()) -> list[str]:
        """What is not as it should be in a folder of results, but for some images."""
        parts = sorted(map(str, output.glob("part-*.parquet")))
        rows = pyarrow.dataset.dataset(parts).to_table().to_pylist() if parts else []
        lost = [] if [x["id"] for x in rows] == list(range(self.count)) else ["rows"]
        for row, found in zip(rows, self.expected, strict=False):
            if row["id"] in but:
                continue
            if isinstance(found, Exception):
                same = row["error"] == str(found)
            else:
                same = row["error"] is None
                same = same and row["masks"] == [one["segmentation"] for one in found]
            lost += [] if same else [f"image {row['id']}"]
        return lost + [
            path.name for path in output.iterdir() if path.suffix in (".tmp", ".journal")
        ]


def kill_workers_and_all(many: ManyImages, output: Path, kills: int) -> Outcome:
    """SIGKILL at random moments, three times for a worker and then for the whole command."""
    generator = random.Random(0)
    lost: list[str] = []
    done, starts, runs = 0, 0, 1
    while done < kills:
        starts += 1
        command = many.started(output)
        for victim in ("worker", "worker", "worker", "all"):
            there = command.wait_for_part(output)
            time.sleep(generator.uniform(0, 0.2))
            workers = command.workers()
            if not there or not workers or done == kills:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(command.pid if victim == "all" else generator.choice(workers), 9)
                done += 1
        if not command.is_running:  # it is done, or killed
            command.end()
        if len(list(output.glob("part-*"))) == -(-many.count // 16) and done < kills:
            lost += _end_of(many, output, command)
            output, runs = output.with_name(f"{output.name}_again"), runs + 1
        elif command.is_running:
            command.send(signal.SIGKILL)
            command.end()
            done += 1
    lost += _end_of(many, output, many.started(output))
    return Outcome(
        f"{done} times killed, workers and the command itself, over {starts} starts (folders "
        f"of results: {runs}); the same command went on each time",
        lost,
    )


def terminated(many: ManyImages, output: Path, kills: int) -> Outcome:
    """SIGTERM in the midst of it."""
    command = many.started(output)
    command.wait_for_part(output)
    start = time.monotonic()
    command.send(signal.SIGTERM)
    code, text = command.end()
    seconds = time.monotonic() - start
    message = re.search(r"Stopped; the same command goes on", text)
    lost = _end_of(many, output, many.started(output)) + (["exit code"] if code != 130 else [])
    return Outcome(
        f'exit code {code} after {seconds:.1f} s, "{message and message[0]} ..."; it did', lost
    )


def full_disk(many: ManyImages, output: Path, kills: int) -> Outcome:
    """The disk has no room for another part."""
    output.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(output)]
    is_disk = os.geteuid() == 0 and not subprocess.run(mounted, capture_output=True).returncode
    try:
        # without the right to mount: no larger file, which the system tells in the same way
        code, text = many.run(output, largest_file=None if is_disk else 15_000)
        there = len(list(output.glob("part-*")))
        if is_disk:
            subprocess.run(["mount", "-o", "remount,size=64m", str(output)], check=True)
        lost = _end_of(many, output, many.started(output))
    finally:
        if is_disk:
            subprocess.run(["umount", str(output)], check=True)
    lost += ["exit code"] if code != 2 else []
    message = re.search(r"could not be written: .*? Make room", text, flags=re.S)
    kind = "a disk of 200 KiB" if is_disk else "files of at most 15 kB"
    return Outcome(
        f'{kind}: exit code {code} with {there} parts, "... {message and message[0]} ..."; with '
        "room it went on",
        lost,
    )


def out_of_memory(many: ManyImages, output: Path, kills: int) -> Outcome:
    """An image of which every process dies that reads it, and the others of its part."""
    deadly = 37
    path = many.photos / f"{deadly:05d}.png"
    content = path.read_bytes()
    path.write_bytes(content + DEADLY)
    usual = PIL.Image.open
    try:
        make_deadly()
        code, text = many.run(output)
    finally:
        PIL.Image.open = usual
        path.write_bytes(content)
    deaths = text.count("was killed by SIGKILL")
    parts = pyarrow.dataset.dataset(sorted(map(str, output.glob("part-*.parquet"))))
    row = parts.to_table().to_pylist()[deadly]
    lost = many.differences(output, but=[deadly]) + (["exit code"] if code else [])
    lost += [] if row["error"] and "processes died" in row["error"] else ["the error"]
    return Outcome(
        f'{deaths} processes died of one image and were replaced; its row: "{row["error"]}"', lost
    )


def _end_of(many: ManyImages, output: Path, command: ForkedCommand) -> list[str]:
    code, _ = command.end()
    return many.differences(output) + (["exit code"] if code else [])


MANY_TRIALS: dict[str, Callable[[ManyImages, Path, int], Outcome]] = {
    "kill -9 at random moments": kill_workers_and_all,
    "SIGTERM": terminated,
    "full disk": full_disk,
    "out of memory": out_of_memory,
}


def workers_of(pid: int) -> list[int]:
    """Processes that predict, of one that runs predict-many or serve (Linux)."""
    servers = [x for x in children_of(pid) if b"forkserver" in _read(f"/proc/{x}/cmdline")]
    return [worker for server in servers for worker in children_of(server)]


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*")
    return [int(child) for task in tasks for child in _read(f"{task}/children").split()]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it has just ended
        return b""
