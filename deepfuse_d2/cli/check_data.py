#!/usr/bin/env python3
"""Look at every file of data sets before a training does: counts, classes, sizes, problems.

    python tools/check_dataset.py minicity_fine_instance_seg_train minicity_fine_instance_seg_val
    python tools/check_dataset.py --config-file my.yaml       # all of DATASETS.TRAIN and TEST

Prints one table and the problems, and draws one contact sheet, the images with problems first.
Exit code: 0, training would run (there may be warnings); 1, it would fail; 2, wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tabulate import tabulate
from tqdm import tqdm
from visualize_data import draw_sample

from deepfuse_d2.data.check import Problem, Report, check_dataset, duplicates_between
from deepfuse_d2.engine import check_config, load_config
from deepfuse_d2.errors import ConfigError, UserError
from deepfuse_d2.visualization import sheet

SHOWN = 10
BAR = 22  # pixels above each tile of the sheet
RED, GREY = (30, 30, 200), (70, 70, 70)  # BGR


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="registered names")
    parser.add_argument("--config-file", default="", metavar="FILE", help="for DATASETS.EXTRA")
    parser.add_argument(
        "--sheet", type=Path, default=Path("output/check_dataset.png"), metavar="PNG",
        help="contact sheet (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--num", type=int, default=12, help="pictures on the sheet; 0 for none")
    parser.add_argument("--all", action="store_true", help=f"all problems, not {SHOWN} a data set")
    args = parser.parse_args(argv)
    try:
        names = choose(args.datasets, args.config_file)
        if args.num < 0 or args.sheet.suffix.lower() != ".png":
            raise ConfigError("--num is 0 or more, and --sheet a path ending in .png.")
        reports = [check(name) for name in names]
        shared = duplicates_between(reports)
        print(table(reports))
        for report in reports:
            tell(report.name, report.problems, None if args.all else SHOWN)
        tell("between data sets", shared, None)
        if args.num and any(report.records for report in reports):
            save(draw(reports, args.num), args.sheet)
            print(f"\nContact sheet: {args.sheet}")
    except UserError as error:
        print(f"check_dataset.py: {error}", file=sys.stderr)
        return 2
    failing = [report.name for report in reports if report.errors]
    print(f"\nTraining would fail on {', '.join(failing)}." if failing else "\nTraining would run.")
    return 1 if failing else 0


def choose(names: list[str], config_file: str) -> list[str]:
    """Returns the names to check: those given, or those of the config."""
    cfg = load_config(config_file, ["MODEL.DEVICE", "cpu"])
    if not names:
        names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not names:
        raise ConfigError("Name the data sets, or a --config-file with DATASETS.TRAIN and TEST.")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.MODEL.WEIGHTS = (), tuple(names), ""
    check_config(cfg)
    return list(dict.fromkeys(names))


def check(name: str) -> Report:
    with tqdm(desc=name, unit="image", delay=1.0) as bar:
        return check_dataset(name, progress=bar.update)


def table(reports: Sequence[Report]) -> str:
    """One column a data set, one row a figure."""
    rows = []
    for section in (_counts, _areas, _instances, _pixels, _problems):
        columns = [section(report) for report in reports]
        keys = dict.fromkeys(key for column in columns for key in column)
        rows += [[key, *(column.get(key, "") for column in columns)] for key in keys]
    return tabulate(
        rows,
        ["", *(report.name for report in reports)],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left"] + ["right"] * len(reports),
    )


def _counts(report: Report) -> dict[str, str]:
    sizes = sorted({facts.size[::-1] for facts in report.facts if facts.size})
    text = " x ".join(map(str, sizes[0])) if sizes else ""
    if len(sizes) > 1:
        width, height = zip(*sizes, strict=True)
        text = f"{min(width)}-{max(width)} x {min(height)}-{max(height)}"
    figures = {"images": f"{len(report.records)}", "width x height": text}
    if report.has_instances:
        empty = sum(not facts.instances for facts in report.facts)
        figures["images without instance"] = f"{empty}"
        figures["groups (iscrowd)"] = f"{sum(facts.groups for facts in report.facts)}"
    return figures


def _areas(report: Report) -> dict[str, str]:
    areas = report.areas()
    if not areas.size:
        return {}
    small, medium = np.searchsorted(areas, [32**2, 96**2])
    return {
        "instances": f"{areas.size}",
        "area: least, median, most": f"{areas[0]}, {int(np.median(areas))}, {areas[-1]}",
        "small (under 32 x 32)": _share(small, areas.size),
        "medium": _share(medium - small, areas.size),
        "large (from 96 x 96)": _share(areas.size - medium, areas.size),
    }


def _instances(report: Report) -> dict[str, str]:
    counts = report.instances_by_class()
    if not counts:
        return {}
    names = report.thing_classes
    return {name: _share(counts[i], counts.total()) for i, name in enumerate(names)}


def _pixels(report: Report) -> dict[str, str]:
    counts = report.pixels_by_class()
    if not counts:
        return {}
    total = counts.total()
    names = dict(enumerate(report.stuff_classes)) | {report.ignore_label: "(ignored)"}
    shown = {f"{name} px": f"{counts[i] / total:.2%}" for i, name in names.items()}
    others = total - sum(counts[i] for i in names)
    return {"pixels": f"{total}", **shown} | ({"(other ids)": str(others)} if others else {})


def _problems(report: Report) -> dict[str, str]:
    return {"errors": f"{len(report.errors)}", "warnings": f"{len(report.warnings)}"}


def _share(count: int, total: int) -> str:
    return f"{count} ({count / max(total, 1):.0%})"


def tell(title: str, problems: Sequence[Problem], most: int | None) -> None:
    """Prints problems, errors first."""
    if not problems:
        return
    print(f"\n{title}")
    ordered = sorted(problems, key=lambda problem: not problem.is_error)
    for problem in ordered[:most]:
        print(f"  {'error' if problem.is_error else 'warning'}: {problem.text}")
    if len(ordered) > len(ordered[:most]):
        print(f"  and {len(ordered) - most} more (--all)")


def draw(reports: Sequence[Report], count: int) -> np.ndarray:
    """A sheet of `count` pictures, as many of each data set; those with problems come first."""
    tiles = []
    for number, report in enumerate(reports):
        # what one does not use up goes to the next
        left = (count - len(tiles)) // (len(reports) - number)
        for index in chosen(report, left):
            tiles.append(tile(report, index))
    return sheet(tiles, columns=min(4, len(tiles)))


def chosen(report: Report, count: int) -> list[int]:
    """Returns records to show: up to half of them with problems, the others spread evenly."""
    bad = [i for i, facts in enumerate(report.facts) if facts.problems]
    bad = bad[: max(count // 2, 1)] if count else []
    good = [i for i, facts in enumerate(report.facts) if not facts.problems]
    picks = np.linspace(0, len(good) - 1, min(count - len(bad), len(good))).astype(int)
    return bad + [good[i] for i in picks]


def tile(report: Report, index: int, width: int = 384) -> np.ndarray:
    """A picture with its labels under a bar with its name, red where there is a problem."""
    record, facts = report.records[index], report.facts[index]
    try:
        picture = draw_sample(record, report.name, width)
    except Exception as error:  # what is broken can fail anywhere in the drawing
        picture = np.full((width // 2, width, 3), 230, np.uint8)
        _write(picture, f"cannot be drawn ({type(error).__name__})", (8, width // 4), GREY)
    bar = np.full((BAR, width, 3), RED if facts.problems else GREY, np.uint8)
    name = Path(record["file_name"]).name
    text = f"{report.name}: {name}" if len(report.name + name) < 48 else name
    _write(bar, text, (6, 15), (255, 255, 255))
    sample = np.concatenate([bar, picture])
    if facts.problems:
        cv2.rectangle(sample, (0, 0), (width - 1, sample.shape[0] - 1), RED, 4)
    return sample


def _write(image: np.ndarray, text: str, at: tuple[int, int], color: tuple[int, int, int]) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)


def save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise ConfigError(f"Cannot write {path}; choose another --sheet.")


if __name__ == "__main__":
    sys.exit(main())
