"""Looking at every file of a data set the way training does, and counting what is there.

An error is what training or evaluation would stop at, or silently learn wrongly; a warning is what
it survives. A data set is any name registered with detectron2.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ..errors import DatasetError, ImageError
from .check_annotations import check_annotations
from .images import read_image
from .label_images import read_labels
from .problems import collect_problems
from .records.tally import tally_of
from .scenes import Window, read_scene

__all__ = ["Facts", "Problem", "Report", "check_dataset", "duplicates_between"]


class Problem(NamedTuple):
    #: Whether training would fail, or learn what the labels do not say.
    is_error: bool
    text: str
    #: The image it belongs to, if any.
    image: str = ""


@dataclass
class Facts:
    """What one record holds, as far as it can be read."""

    image: str
    problems: list[Problem] = field(default_factory=list)
    #: Of the decoded pixels; "" for an image that cannot be decoded.
    digest: str = ""
    #: (height, width)
    size: tuple[int, int] | None = None
    #: Category and area in pixels of each instance, groups (iscrowd) apart.
    instances: list[tuple[int, int]] = field(default_factory=list)
    groups: int = 0
    #: Class id -> pixels.
    pixels: Counter = field(default_factory=Counter)


@dataclass
class Report:
    """The sum over a data set."""

    name: str
    thing_classes: list[str]
    stuff_classes: list[str]
    ignore_label: int | None
    records: list[dict[str, Any]]
    facts: list[Facts]
    problems: list[Problem]
    evaluator_type: str | None = None

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.is_error]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if not problem.is_error]

    @property
    def has_instances(self) -> bool:
        return any("annotations" in record for record in self.records)

    def instances_by_class(self) -> Counter:
        return Counter(kind for facts in self.facts for kind, _ in facts.instances)

    def pixels_by_class(self) -> Counter:
        return sum((facts.pixels for facts in self.facts), Counter())

    def areas(self) -> np.ndarray:
        """Pixels of every instance, ascending."""
        return np.sort([area for facts in self.facts for _, area in facts.instances])


def check_dataset(
    name: str, *, workers: int | None = None, progress: Callable[[], Any] = lambda: None
) -> Report:
    """Read every file of a registered data set.

    Args:
        workers: threads; by default one a CPU, at most 8.
        progress: called once an image.
    """
    problems, records = [], []
    try:
        with collect_problems() as damaged:
            records = DatasetCatalog.get(name)
    except DatasetError as error:
        problems.append(Problem(True, str(error)))
    problems += [Problem(True, text) for text in damaged]
    problems += [Problem(False, f"{name}: {line}.") for line in tally_of(name).lines()]
    metadata = MetadataCatalog.get(name)
    report = Report(
        name,
        list(metadata.get("thing_classes") or []),
        list(metadata.get("stuff_classes") or []),
        metadata.get("ignore_label"),
        records,
        [],
        problems,
        metadata.get("evaluator_type"),
    )

    def inspect(record: dict[str, Any]) -> Facts:
        facts = _inspect(record, report)
        progress()
        return facts

    # Decoding and hashing run outside of python's lock.
    with ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 8)) as pool:
        report.facts = list(pool.map(inspect, records))
    report.problems += [problem for facts in report.facts for problem in facts.problems]
    report.problems += _of_the_whole(report, labelled=metadata.get("has_labels", True))
    return report


def duplicates_between(reports: Sequence[Report]) -> list[Problem]:
    """Return a warning for each pair of data sets that share images, by their pixels."""
    by_digest = [{f.digest: f.image for f in report.facts if f.digest} for report in reports]
    problems = []
    for (one, these), (other, those) in combinations(zip(reports, by_digest, strict=True), 2):
        shared = [digest for digest in these if digest in those]
        if shared:
            first, second = these[shared[0]], those[shared[0]]
            example = first if first == second else f"{first} and {second}"
            text = (
                f"{one.name} and {other.name} share {len(shared)} images (the same pixels), such "
                f"as {example}. Results on one say nothing about training on the other."
            )
            problems.append(Problem(False, text, first))
    return problems


def _inspect(record: dict[str, Any], report: Report) -> Facts:
    image = record["file_name"]
    facts = Facts(image)
    if "scene" in record:
        _inspect_scene(record, report, facts)
        return facts
    try:
        pixels = read_image(image)
    except ImageError as error:
        text = str(error) if os.path.exists(image) else f"Image {image} is missing."
        facts.problems.append(Problem(True, text, image))
    else:
        facts.size = pixels.shape[:2]
        facts.digest = hashlib.blake2b(pixels, digest_size=16).hexdigest() + str(pixels.shape)
        told = (record.get("height", facts.size[0]), record.get("width", facts.size[1]))
        if told != facts.size:
            facts.problems.append(
                Problem(
                    True,
                    f"Image {image} is {facts.size[1]} x {facts.size[0]} pixels, its labels are "
                    f"for {told[1]} x {told[0]}.",
                    image,
                )
            )
    size = facts.size or (record.get("height"), record.get("width"))
    if "annotations" in record:
        found = check_annotations(record["annotations"], size, len(report.thing_classes))
        facts.instances, facts.groups = found.instances, found.groups
        _add(facts, found.errors, is_error=True)
        _add(facts, found.warnings, is_error=False)
    if record.get("sem_seg_file_name"):
        _inspect_semantic(record["sem_seg_file_name"], size, report, facts)
    if record.get("instance_file_name"):
        _inspect_instance_ids(record["instance_file_name"], facts)
    return facts


def _inspect_scene(record: dict[str, Any], report: Report, facts: Facts) -> None:
    """A window of a time series and its image; labels are on the grid of either."""
    scene = record["scene"]
    window = Window(*record.get("window", (0, 0, *scene.size)))
    try:
        found = read_scene(scene, window)
    except DatasetError as error:
        facts.problems.append(Problem(True, str(error), facts.image))
        return
    digest = hashlib.blake2b(digest_size=16)
    for key in ("image", "time_series"):
        if key in found:
            digest.update(np.ascontiguousarray(found[key]))
    facts.digest = digest.hexdigest()
    facts.size = (record["height"], record["width"])
    if "usable" in found and not found["usable"].any():
        _add(facts, ["no date of the series can be used: clouds or no data"], is_error=False)
    if record.get("sem_seg_file_name"):
        _inspect_semantic(record["sem_seg_file_name"], facts.size, report, facts)


def _add(facts: Facts, texts: Iterable[str], *, is_error: bool) -> None:
    facts.problems += [Problem(is_error, f"{facts.image}: {text}.", facts.image) for text in texts]


def _inspect_semantic(path: str, size: tuple, report: Report, facts: Facts) -> None:
    try:
        labels = read_labels(path)
        with Image.open(path) as image:
            mode = image.mode
    except DatasetError as error:
        facts.problems.append(Problem(True, str(error), facts.image))
        return
    if mode != "L":
        _add(
            facts,
            [f"label file {path} has mode {mode}; detectron2 reads other ids from it than it holds"
             " (it has to be grey, 8 bits)"],
            is_error=True,
        )  # fmt: skip
    if labels.shape != size:
        text = f"label file {path} is {labels.shape[1]} x {labels.shape[0]} pixels"
        _add(facts, [f"{text}, the image {size[1]} x {size[0]}"], is_error=True)
    ids, counts = np.unique(labels, return_counts=True)
    facts.pixels = Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    count, ignored = len(report.stuff_classes), report.ignore_label
    wrong = [i for i in facts.pixels if count and i >= count and i != ignored]
    if wrong:
        _add(
            facts,
            [f"label file {path} holds the ids {wrong}; expected 0..{count - 1}, or {ignored} "
             "where there is nothing to learn"],
            is_error=True,
        )  # fmt: skip
    if ignored is not None and set(facts.pixels) == {ignored}:
        _add(facts, [f"label file {path} holds nothing but {ignored} (ignored)"], is_error=False)


def _inspect_instance_ids(path: str, facts: Facts) -> None:
    """Look for labels that Cityscapes does not have: loaders and evaluators leave them out."""
    from cityscapesscripts.helpers.labels import labels

    known = {label.id for label in labels if label.id >= 0}
    try:
        ids = np.unique(read_labels(path)).tolist()
    except DatasetError as error:
        facts.problems.append(Problem(True, str(error), facts.image))
        return
    wrong = [i for i in ids if (i if i < 1000 else i // 1000) not in known]
    if wrong:
        _add(facts, [f"{path} holds {wrong}, ids of no label of Cityscapes"], is_error=False)


def _of_the_whole(report: Report, *, labelled: bool) -> list[Problem]:
    problems = []
    if not report.records:
        return problems if report.errors else [Problem(True, f"{report.name} holds no image.")]
    if report.has_instances and not report.thing_classes:
        problems.append(Problem(True, f"{report.name} has no thing_classes in its metadata."))
    if report.has_instances and not any(facts.instances for facts in report.facts):
        problems.append(
            Problem(True, f"{report.name} holds no instance: training has nothing to learn from.")
        )
    keys = ("annotations", "sem_seg_file_name")
    if labelled and not any(key in record for record in report.records for key in keys):
        problems.append(Problem(True, f"No record of {report.name} has labels ({keys})."))
    unseen = []
    if report.has_instances:
        counts = report.instances_by_class()
        unseen = [name for i, name in enumerate(report.thing_classes) if not counts[i]]
    elif any(facts.pixels for facts in report.facts):
        counts = report.pixels_by_class()
        unseen = [name for i, name in enumerate(report.stuff_classes) if not counts[i]]
    if unseen:
        problems.append(Problem(False, f"{report.name} has none of: {', '.join(unseen)}."))

    same: dict[str, list[str]] = defaultdict(list)
    for facts in report.facts:
        if facts.digest:
            same[facts.digest].append(facts.image)
    problems += [
        Problem(False, f"{report.name} holds one image {len(group)} times: {', '.join(group[:3])}.")
        for group in same.values()
        if len(group) > 1
    ]
    ids = Counter(record["image_id"] for record in report.records if "image_id" in record)
    twice = [str(image_id) for image_id, count in ids.items() if count > 1]
    if twice:
        problems.append(
            Problem(
                True,
                f"{report.name} uses an image_id for several images ({', '.join(twice[:3])}): "
                "evaluators tell images apart by it.",
            )
        )
    return problems
