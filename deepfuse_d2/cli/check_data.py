"""Look at every file of data sets before a training does: counts, classes, sizes, problems.

    deepfuse check-data minicity_fine_instance_seg_train minicity_fine_instance_seg_val
    deepfuse check-data --config-file my.yaml       # all of DATASETS.TRAIN and TEST

Prints one table and the problems, and draws one contact sheet, the images with problems first.
Exit code: 0, training would run (there may be warnings); 1, it would fail; 2, wrong arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .arguments import add_config_file

if TYPE_CHECKING:
    from ..data.check import Problem, Report

__all__ = ["add_arguments", "run"]

SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="registered names")
    add_config_file(parser, required=False, default="", help="for DATASETS.EXTRA")
    parser.add_argument(
        "--sheet", type=Path, default=Path("output/check_dataset.png"), metavar="PNG",
        help="contact sheet (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--num", type=int, default=12, help="pictures on the sheet; 0 for none")
    parser.add_argument("--all", action="store_true", help=f"all problems, not {SHOWN} a data set")


def run(args: argparse.Namespace) -> int:
    if args.num < 0 or args.sheet.suffix.lower() != ".png":
        raise ConfigError("--num is 0 or more, and --sheet a path ending in .png.")
    names = choose(args.datasets, args.config_file)

    from ..data.check import duplicates_between
    from ..visualization.checked import draw_checked

    reports = [check_one(name) for name in names]
    for report in reports:
        report.problems += against_config(report, args.config_file)
    shared = duplicates_between(reports)
    print(table(reports))
    for report in reports:
        tell(report.name, report.problems, None if args.all else SHOWN)
    tell("between data sets", shared, None)
    if args.num and any(report.records for report in reports):
        save(draw_checked(reports, args.num), args.sheet)
        print(f"\nContact sheet: {args.sheet}")
    failing = [report.name for report in reports if report.errors]
    print(f"\nTraining would fail on {', '.join(failing)}." if failing else "\nTraining would run.")
    return 1 if failing else 0


def choose(names: list[str], config_file: str) -> list[str]:
    """Return the names to check: those given, or those of the config."""
    from ..config.checking import check_config
    from ..config.loading import load_config

    cfg = load_config(config_file, ["MODEL.DEVICE", "cpu"])
    if not names:
        names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not names:
        raise ConfigError("Name the data sets, or a --config-file with DATASETS.TRAIN and TEST.")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.MODEL.WEIGHTS = (), tuple(names), ""
    check_config(cfg)
    return list(dict.fromkeys(names))


def check_one(name: str) -> Report:
    from tqdm import tqdm

    from ..data.check import check_dataset

    with tqdm(desc=name, unit="image", delay=1.0) as bar:
        return check_dataset(name, progress=bar.update)


def against_config(report: Report, config_file: str) -> list[Problem]:
    """What of all records does not fit a config, and whether perfect predictions score 100."""
    import tempfile

    from tqdm import tqdm

    from ..config.loading import load_config
    from ..data.check import Problem
    from ..engine.evaluators import EVALUATORS, build_evaluator
    from ..engine.preflight import PERFECT, perfect_scores
    from ..engine.record_checks import (
        check_annotated,
        check_keypoints,
        check_masks,
        check_samples,
    )

    if report.errors or not report.records:
        return []
    cfg, name = load_config(config_file, ["MODEL.DEVICE", "cpu"]), report.name
    problems = []
    if config_file:
        for check in (check_masks, check_keypoints):
            try:
                check(cfg, report.records, name, len(report.records))
            except ConfigError as error:
                problems.append(Problem(True, str(error)))
        if name in cfg.DATASETS.TRAIN and not problems:
            try:
                check_annotated(cfg, report.records, name)
            except ConfigError as error:
                # label maps may be checked before a model is chosen that learns from them
                if any("sem_seg_file_name" in record for record in report.records):
                    return []
                return [Problem(True, str(error))]
            with tqdm(desc=f"{name}, samples", unit="image", delay=1.0) as bar:
                found = list(check_samples(cfg, report.records, progress=bar.update))
            problems += [Problem(*one) for one in found]
    if EVALUATORS.get(report.evaluator_type or "") is not EVALUATORS["coco"]:
        return problems
    most = max(len(facts.instances) for facts in report.facts)
    if config_file and most > cfg.TEST.DETECTIONS_PER_IMAGE:
        text = (
            f"{name} has up to {most} objects an image, and TEST.DETECTIONS_PER_IMAGE is "
            f"{cfg.TEST.DETECTIONS_PER_IMAGE}."
        )
        problems.append(Problem(False, text))
    with tempfile.TemporaryDirectory() as folder:
        evaluator = build_evaluator(
            name,
            folder,
            detections_per_image=most,
            oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        )
        scores = perfect_scores(name, report.records, evaluator)
    for metric, score in scores.items():
        if score < PERFECT:
            text = f"Predictions made from the ground truth of {name} score {metric} {score:.1f}."
            problems.append(Problem(False, text))
    return problems


def table(reports: Sequence[Report]) -> str:
    """One column a data set, one row a figure."""
    from tabulate import tabulate

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
    import numpy as np

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
    """Print problems, errors first."""
    if not problems:
        return
    print(f"\n{title}")
    ordered = sorted(problems, key=lambda problem: not problem.is_error)
    for problem in ordered[:most]:
        print(f"  {'error' if problem.is_error else 'warning'}: {problem.text}")
    if most is not None and len(ordered) > most:
        print(f"  and {len(ordered) - most} more (--all)")


def save(image, path: Path) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise ConfigError(f"Cannot write {path}; choose another --sheet.")
