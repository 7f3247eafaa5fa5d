"""The layout that the server of PASCAL VOC 2012 takes for segmentation, by its development kit.

    results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png

PNGs of 8 bits with the palette of VOC, ids 0 (background) .. 20; a .tgz of the folder results.
comp6 is the competition for models trained on any data but VOC's test set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.datasets.voc import VOC_CLASSES, voc_palette
from ..errors import ConfigError
from .files import compare_files, label_map, stem_of, wrong_png

__all__ = ["VocSegmentation"]


class VocSegmentation:
    """Writes and checks the layout of comp6.

    Args:
        metadata: of the data set; has VOC's 21 `stuff_classes` and the `split`.
    """

    archive = "results.tgz"
    folder = "results"
    inside = "results"

    def __init__(self, metadata: Any):
        if tuple(metadata.get("stuff_classes") or ()) != VOC_CLASSES:
            raise ConfigError(
                f'Data set "{metadata.get("name")}" has other classes than VOC 2012; a submission '
                f"needs these stuff_classes in its metadata: {', '.join(VOC_CLASSES)}."
            )
        split = "test" if metadata.get("split") == "test" else "val"
        self._place = f"VOC2012/Segmentation/comp6_{split}_cls"
        self._palette = voc_palette()

    def write(self, folder: Path, record: dict[str, Any], output: dict[str, Any]) -> None:
        """Write the class ids of one image.

        Args:
            output: `sem_seg` holds logits (C, H, W) or classes (H, W) at the size of the image.
        """
        classes = label_map(output, record, len(VOC_CLASSES))
        (folder / self._place).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(classes.astype(np.uint8))
        image.putpalette(self._palette.ravel().tolist())
        image.save(folder / self._place / f"{stem_of(record)}.png")

    def check(self, folder: Path, records: Sequence[dict[str, Any]]) -> list[str]:
        """Return what is wrong with a folder of files, empty if nothing is."""
        problems, expected = [], []
        for record in records:
            name = f"{self._place}/{stem_of(record)}.png"
            expected.append(name)
            if (folder / name).is_file():
                problem = self._check_png(folder / name, name, record)
                problems += [problem] if problem else []
        return problems + compare_files(folder, expected)

    def _check_png(self, path: Path, name: str, record: dict[str, Any]) -> str:
        problem = wrong_png(path, name, record, "P")
        if problem:
            return problem
        try:
            with Image.open(path) as image:
                palette, ids = image.getpalette(), np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            return str(error)
        if ids.max() >= len(VOC_CLASSES):
            return f"{name} holds the id {ids.max()}; expected 0..{len(VOC_CLASSES) - 1}"
        used = 3 * (int(ids.max()) + 1)
        if palette[:used] != self._palette.ravel()[:used].tolist():
            return f"{name} has another palette than VOC"
        return ""
