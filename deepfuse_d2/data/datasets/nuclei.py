"""Cell nuclei of many microscopes and stains: 664 photographs with an id for each nucleus.

    <root>/images/<stem>.jpg        .png is read as well
    <root>/instances/<stem>.png     0 background, 1..n one id a nucleus, 16 bits

Stage 1 train of the Data Science Bowl 2018 with its public corrections. The data set has no split
of its own: of the stems in order, every fifth, from the first on, is val, the rest train.

Caicedo et al.: "Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl",
Nature Methods 2019; image set BBBC038 of the Broad Bioimage Benchmark Collection.
"""

import os
from typing import Any

from ..problems import explained
from .instance_labels import load_instance_labels
from .published import check_split, warn_if_incomplete
from .semantic import pair_by_stem

__all__ = ["NUCLEI_METADATA", "NUM_IMAGES", "load_nuclei"]

NUCLEI_METADATA = {
    "evaluator_type": "coco",
    "thing_classes": ["nucleus"],
    "thing_colors": [[90, 110, 220]],
}

_REMEDY = (
    "Prepare the nuclei by `deepfuse prepare nuclei --source FOLDER`, or set "
    "DETECTRON2_DATASETS to the folder that holds nuclei/. See datasets/README.md."
)

NUM_IMAGES = {"train": 531, "val": 133}
_VAL_EVERY = 5


def load_nuclei(root: str | os.PathLike, split: str) -> list[dict[str, Any]]:
    """Load a split in detectron2's format, see :func:`.instance_labels.load_instance_labels`.

    Args:
        root: the folder nuclei, which holds images and instances.
        split: "train" or "val".

    Raises:
        DatasetError: a folder or file is missing or damaged; names it and says what to do.
    """
    check_split(split, NUM_IMAGES)
    root = os.path.abspath(root)
    with explained(_REMEDY):
        pairs = pair_by_stem(os.path.join(root, "images"), os.path.join(root, "instances"))
        pairs = sorted(pairs, key=lambda pair: pair.key)
        chosen = [
            pair
            for number, pair in enumerate(pairs)
            if (number % _VAL_EVERY == 0) == (split == "val")
        ]
        records = load_instance_labels(chosen, root=root, name=f"nuclei_{split}")
    warn_if_incomplete(root, split, len(records), NUM_IMAGES)
    return records
