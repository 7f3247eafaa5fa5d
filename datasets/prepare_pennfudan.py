#!/usr/bin/env python3
"""Puts the Penn-Fudan pedestrians where `pennfudan_train` and `pennfudan_val` find them.

    python datasets/prepare_pennfudan.py --source PennFudanPed.zip

The source is the original archive (https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip), or
a folder with its content: PNGImages (PNG or JPEG files) and PedMasks. It is checked for all 170
pairs of image and mask, and appears as <root>/PennFudanPed only when complete.
"""

import sys
from pathlib import Path

from prepare_common import Recipe, has_content, run

STEMS = [f"FudanPed{i:05d}" for i in range(1, 75)] + [f"PennPed{i:05d}" for i in range(1, 97)]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def main(argv: list[str] | None = None) -> int:
    done = f"Penn-Fudan lies in {{target}}: {len(STEMS)} images with masks (128 train, 42 val)."
    return run(RECIPE, __doc__, done, argv)


def missing_files(folder: Path) -> list[str]:
    """Returns which of the 170 images and masks are absent or empty."""
    missing = []
    for stem in STEMS:
        images = [folder / "PNGImages" / f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES]
        if not any(has_content(image) for image in images):
            missing.append(f"PNGImages/{stem}.png")
        if not has_content(folder / "PedMasks" / f"{stem}_mask.png"):
            missing.append(f"PedMasks/{stem}_mask.png")
    return missing


RECIPE = Recipe(
    name="PennFudanPed",
    folders=("PNGImages", "PedMasks", "Annotation"),  # the last is the original's text, optional
    inner=("", "PennFudanPed"),
    missing_files=missing_files,
    max_bytes=1 << 30,  # the original has 53 MB
)

if __name__ == "__main__":
    sys.exit(main())
