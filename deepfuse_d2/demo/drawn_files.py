#!/usr/bin/env python3
"""Draw what a model finds in images, folders, video files and cameras; write it down as JSON.

python tools/demo.py --config-file configs/... --weights model_final.pth --input a.jpg folder/ \
    street.mp4 --output results/
python tools/demo.py --config-file configs/... --weights model_final.pth --camera 0 \
    --output results/ --save video coco
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

from tqdm import tqdm

from deepfuse_d2.demo import DemoModel, TrainedModel
from deepfuse_d2.demo.drawing import overlay
from deepfuse_d2.demo.results import CityscapesFiles, CocoFiles, Pictures, Videos
from deepfuse_d2.demo.sources import Source, find_sources
from deepfuse_d2.errors import UserError

SAVED = ("pictures", "video", "coco", "cityscapes")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument(
        "--input", type=Path, nargs="+", default=[], metavar="PATH",
        help="images, video files and folders",
    )  # fmt: skip
    parser.add_argument(
        "--camera", nargs="+", default=[], metavar="N", help="0 is the first; or a stream's address"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--save", nargs="+", choices=SAVED,
        help="pictures of all frames, videos also of folders, COCO's results, Cityscapes' layout; "
        "by default a picture of an image and a video of a video",
    )  # fmt: skip
    parser.add_argument(
        "--show", nargs="+", choices=("instances", "semantics"),
        default=["instances", "semantics"], help="what of a model that gives both is drawn",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="lowest score drawn and written"
    )
    parser.add_argument("--fps", type=float, help="of written videos; default: the input's, or 25")
    parser.add_argument("--max-frames", type=int, help="stop after so many, of each input")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, help="config overrides KEY VALUE ...")
    args = parser.parse_args(argv)
    if not args.input and not args.camera:
        parser.error("nothing to look at: give --input or --camera")
    if not 0 <= args.threshold <= 1:
        parser.error(f"--threshold {args.threshold:g}: give 0 to 1")
    for name in ("fps", "max_frames"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            parser.error(f"--{name.replace('_', '-')} {value:g}: give more than 0")
    try:
        run(args)
    except UserError as error:
        sys.exit(f"demo.py: {error}")


def run(args: argparse.Namespace) -> None:
    sources = find_sources(args.input, args.camera)
    trained = TrainedModel("model", Path(args.config_file), Path(args.weights))
    model = DemoModel.load(trained, args.opts or [])
    args.output.mkdir(parents=True, exist_ok=True)
    writers = make_writers(args, model)
    start, count = time.perf_counter(), 0
    try:
        # Ctrl-C is how a camera ends: what came so far is kept
        with contextlib.suppress(KeyboardInterrupt):
            for _ in predict(sources, model, writers, args):
                count += 1
    finally:
        made = [name for writer in writers for name in writer.close()]
    seconds = time.perf_counter() - start
    rate = f"{count} frames, {count / seconds:.2f} frames/s"
    print(f"Wrote {', '.join(made) or 'nothing'} to {args.output} ({rate})")
    problems = [problem for source in sources for problem in source.problems]
    if problems:
        sys.exit("demo.py: not readable, skipped: " + " ".join(problems))


def make_writers(args: argparse.Namespace, model: DemoModel) -> list:
    saved = args.save or ["pictures", "video"]
    asked = set(args.save or [])
    writers = []
    if "pictures" in saved:
        writers.append(Pictures(args.output, of_videos="pictures" in asked))
    if "video" in saved:
        writers.append(Videos(args.output, of_images="video" in asked, fps=args.fps))
    if "coco" in saved:
        writers.append(CocoFiles(args.output, model.metadata))
    if "cityscapes" in saved:
        writers.append(CityscapesFiles(args.output, model.metadata))
    return writers


def predict(sources: list[Source], model: DemoModel, writers: list, args: argparse.Namespace):
    """Yield after each frame that was predicted and handed to the writers."""
    counts = [source.count for source in sources]
    if args.max_frames:
        counts = [min(args.max_frames, count or args.max_frames) for count in counts]
    total = None if None in counts else sum(counts)
    with tqdm(total=total, desc="Frames", unit="frame") as progress:
        for source in sources:
            for number, frame in enumerate(source, start=1):
                found = model(frame.image)
                if "instances" in found:
                    scores = found["instances"].scores
                    found["instances"] = found["instances"][scores >= args.threshold]
                drawn = Once(overlay, frame.image, found, model.metadata, args.show)
                for writer in writers:
                    writer.add(source, frame, found, drawn)
                progress.update()
                yield
                if number == args.max_frames:
                    break


class Once:
    """A drawing made when the first writer asks for it, and not again for the second."""

    def __init__(self, draw, *arguments):
        self._draw, self._arguments, self._drawn = draw, arguments, None

    def __call__(self):
        if self._drawn is None:
            self._drawn = self._draw(*self._arguments)
        return self._drawn


if __name__ == "__main__":
    main()
