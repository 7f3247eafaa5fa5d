#!/usr/bin/env python3
"""Puts the cell nuclei where `nuclei_train` and `nuclei_val` find them.

    python datasets/prepare_nuclei.py --source nuclei --link

The source is a folder (or an archive of one) with images/<stem>.jpg (or .png) and
instances/<stem>.png, which has one id a nucleus. It is checked for all 664 pairs, and appears as
<root>/nuclei only when complete.
"""

import sys
from pathlib import Path

from prepare_common import Recipe, has_content, run

NUM_IMAGES = 664
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def main(argv: list[str] | None = None) -> int:
    done = f"The nuclei lie in {{target}}: {NUM_IMAGES} images with labels (531 train, 133 val)."
    return run(RECIPE, __doc__, done, argv)


def missing_files(folder: Path) -> list[str]:
    """Returns the labels without image, the images without labels, and how many are too few."""
    images = _stems(folder / "images", IMAGE_SUFFIXES)
    labels = _stems(folder / "instances", (".png",))
    missing = [f"images/{stem}.png" for stem in sorted(labels - images)]
    missing += [f"instances/{stem}.png" for stem in sorted(images - labels)]
    # the names of those that lack both are not known
    return missing + ["another image"] * (NUM_IMAGES - len(images | labels))


def _stems(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
    if not folder.is_dir():
        return set()
    files = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return {path.stem for path in files if has_content(path) and path.name[0] != "."}


RECIPE = Recipe(
    name="nuclei",
    folders=("images", "instances"),
    inner=("", "nuclei"),
    missing_files=missing_files,
    max_bytes=1 << 30,  # as JPEG and PNG it has 16 MB
)

if __name__ == "__main__":
    sys.exit(main())
