"""From images, folders, videos and cameras to drawn files and files of results."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from .drawing import overlay
from .models import DemoModel
from .results import CityscapesFiles, CocoFiles, Pictures, Videos
from .sources import Source

__all__ = ["SAVED", "predict_files"]

SAVED = ("pictures", "video", "coco", "cityscapes")


def predict_files(
    model: DemoModel,
    sources: Sequence[Source],
    output: Path,
    save: Sequence[str] | None = None,
    show: Sequence[str] = ("instances", "semantics"),
    threshold: float = 0.5,
    fps: float | None = None,
    max_frames: int | None = None,
) -> str:
    """Draw and write down what a model finds; return what was written, in words.

    Args:
        model: what finds.
        sources: images, folders, videos and cameras, as :func:`.sources.find_sources` gives them.
        output: folder for the files.
        save: of :data:`SAVED`; by default a picture of an image and a video of a video.
        show: what of a model that gives both is drawn.
        threshold: lowest score drawn and written.
        fps: of written videos; by default the input's, or 25.
        max_frames: stop after so many, of each input.
    """
    output.mkdir(parents=True, exist_ok=True)
    writers = make_writers(model, output, save, fps)
    start, count = time.perf_counter(), 0
    try:
        # Ctrl-C is how a camera ends: what came so far is kept
        with contextlib.suppress(KeyboardInterrupt):
            for _ in predict(sources, model, writers, show, threshold, max_frames):
                count += 1
    finally:
        made = [name for writer in writers for name in writer.close()]
    seconds = time.perf_counter() - start
    rate = f"{count} frames, {count / seconds:.2f} frames/s"
    return f"{', '.join(made) or 'nothing'} to {output} ({rate})"


def make_writers(
    model: DemoModel, output: Path, save: Sequence[str] | None, fps: float | None
) -> list:
    saved = save or ["pictures", "video"]
    asked = set(save or [])
    writers = []
    if "pictures" in saved:
        writers.append(Pictures(output, of_videos="pictures" in asked))
    if "video" in saved:
        writers.append(Videos(output, of_images="video" in asked, fps=fps))
    if "coco" in saved:
        writers.append(CocoFiles(output, model.metadata))
    if "cityscapes" in saved:
        writers.append(CityscapesFiles(output, model.metadata))
    return writers


def predict(
    sources: Sequence[Source],
    model: DemoModel,
    writers: list,
    show: Sequence[str],
    threshold: float,
    max_frames: int | None,
) -> Iterator[None]:
    """Yield after each frame that was predicted and handed to the writers."""
    counts = [source.count for source in sources]
    if max_frames:
        counts = [min(max_frames, count or max_frames) for count in counts]
    total = None if None in counts else sum(counts)
    with tqdm(total=total, desc="Frames", unit="frame") as progress:
        for source in sources:
            for number, frame in enumerate(source, start=1):
                found = model(frame.image)
                if "instances" in found:
                    scores = found["instances"].scores
                    found["instances"] = found["instances"][scores >= threshold]
                drawn = Once(overlay, frame.image, found, model.metadata, show)
                for writer in writers:
                    writer.add(source, frame, found, drawn)
                progress.update()
                yield
                if number == max_frames:
                    break


class Once:
    """A drawing made when the first writer asks for it, and not again for the second."""

    def __init__(self, draw: Callable, *arguments):
        self._draw, self._arguments, self._drawn = draw, arguments, None

    def __call__(self):
        if self._drawn is None:
            self._drawn = self._draw(*self._arguments)
        return self._drawn
