#!/usr/bin/env python3
"""Puts PASCAL VOC 2012 and SBD where `voc_2012_sem_seg_{train,trainaug,val,test}` find them.

    python datasets/prepare_voc.py --source VOCtrainval_11-May-2012.tar benchmark.tgz

The sources, together or one at a time: VOC's archive of train and val
(http://host.robots.ox.ac.uk/pascal/VOC/voc2012/), its archive of the test images (given together
with the one before), SBD's benchmark.tgz
(https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/), or folders
with their content. Only what segmentation needs is unpacked, into <root>/VOCdevkit and
<root>/benchmark_RELEASE; each appears only when complete. SBD is needed for trainaug alone.
"""

import sys
import tarfile
from pathlib import Path

from prepare_common import (
    PrepareError,
    Recipe,
    has_content,
    parse_args,
    place_of,
    prepare_from,
    tell_root,
)

LISTS = "VOC2012/ImageSets/Segmentation"


def main(argv: list[str] | None = None) -> int:
    args = parse_args(__doc__, argv, several=True)
    try:
        made = prepare_all(args.source, args.root, link=args.link)
    except (PrepareError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for target in made:
        lists = ", ".join(path.stem for path in sorted((target / LISTS).glob("*.txt")))
        print(f"{target} is complete" + (f" ({lists})." if lists else "."))
    tell_root(args.root)
    return 0


def prepare_all(sources: list[Path], root: Path, *, link: bool) -> list[Path]:
    parts: dict[str, list[Path]] = {}
    for source in sources:
        found = recipes_of(source)
        if not found:
            raise PrepareError(
                f"{source} holds neither VOC 2012 nor SBD; give VOCtrainval_11-May-2012.tar, "
                "benchmark.tgz, or folders with their content."
            )
        for recipe in found:
            parts.setdefault(recipe.name, []).append(source)
    return [
        prepare_from(recipe, parts[recipe.name], root, link=link)
        for recipe in RECIPES
        if recipe.name in parts
    ]


def recipes_of(source: Path) -> list[Recipe]:
    """Returns what a source holds: a folder may hold both, an archive has one."""
    if not source.exists():
        raise PrepareError(f"Source {source} does not exist; give the archive or a folder.")
    if source.is_dir():
        return [
            recipe
            for recipe in RECIPES
            if any((source / inner / recipe.folders[0]).is_dir() for inner in recipe.inner)
        ]
    try:
        with tarfile.open(source) as archive:
            for member in archive:  # up to the first known file: a whole pass takes minutes
                for recipe in RECIPES:
                    if member.isfile() and place_of(recipe, member.name):
                        return [recipe]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise PrepareError(
            f"{source} is no tar file that can be read ({error}). Download it again."
        ) from error
    return []


def missing_of_voc(folder: Path) -> list[str]:
    """Returns the lists, and the images and labels that they name, which are absent or empty."""
    missing = []
    for split, needed in (("train", True), ("val", True), ("test", False)):
        name = f"{LISTS}/{split}.txt"
        if has_content(folder / name):
            for stem in (folder / name).read_text().split():
                files = [f"VOC2012/JPEGImages/{stem}.jpg"]
                if split != "test":
                    files.append(f"VOC2012/SegmentationClass/{stem}.png")
                missing += [file for file in files if not has_content(folder / file)]
        elif needed:
            missing.append(name)
    return missing


def missing_of_sbd(folder: Path) -> list[str]:
    missing = []
    for name in ("dataset/train.txt", "dataset/val.txt"):
        if not has_content(folder / name):
            missing.append(name)
            continue
        for stem in (folder / name).read_text().split():
            files = [f"dataset/cls/{stem}.mat", f"dataset/img/{stem}.jpg"]
            missing += [file for file in files if not has_content(folder / file)]
    return missing


RECIPES = (
    Recipe(
        name="VOCdevkit",
        folders=(
            LISTS,
            "VOC2012/JPEGImages",
            "VOC2012/SegmentationClass",
            "VOC2012/SegmentationObject",
            "VOC2012/SegmentationClassAug",
        ),
        inner=("", "VOCdevkit"),
        missing_files=missing_of_voc,
        max_bytes=8 << 30,  # train and val have 2 GB, test 2 GB
    ),
    Recipe(
        name="benchmark_RELEASE",
        folders=("dataset/cls", "dataset/img", "dataset/inst", "dataset"),
        inner=("", "benchmark_RELEASE"),
        missing_files=missing_of_sbd,
        max_bytes=8 << 30,  # the original has 1.4 GB
    ),
)

if __name__ == "__main__":
    sys.exit(main())
