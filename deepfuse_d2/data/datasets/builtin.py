"""Registration of the data sets this package brings or takes over.

Detectron2 registers `cityscapes_*` names of its own on import. They are taken over, so that the
familiar names load through our loader on every version of detectron2.
"""

import functools
from pathlib import Path

from detectron2.data import MetadataCatalog

from ...errors import DatasetError
from .camvid import CAMVID_METADATA, load_camvid
from .catalog import datasets_root, register_dataset
from .cityscapes import register_cityscapes_layout
from .cityscapes_layout import layout_folders
from .coco import take_over_coco
from .nuclei import NUCLEI_METADATA, load_nuclei
from .pastis import PASTIS_METADATA, load_pastis, minifields_metadata
from .pennfudan import PENNFUDAN_METADATA, load_pennfudan
from .voc import load_voc, voc_metadata

__all__ = ["register_all"]

_MINICITY_REMEDY = (
    "MiniCity is made by `deepfuse prepare minicity`; if {root} is incomplete or "
    "damaged, delete that folder and run it again."
)
_CITYSCAPES_REMEDY = (
    "Download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
    "https://www.cityscapes-dataset.com (it needs an account) and unpack both into {root}, or set "
    "DETECTRON2_DATASETS to the folder that holds cityscapes/. See datasets/README.md."
)
# mode -> folder and first word of the names
_MINIFIELDS = {"mixed": "minifields", "xor": "minifields_xor"}


def register_all() -> None:
    """Register all data sets; a second call changes nothing. Read no file.

    `DETECTRON2_DATASETS` is read when a data set is used; the folders in the metadata are those of
    the time of registration.
    """
    take_over_coco()
    for task in ("instance_seg", "sem_seg"):
        for split in ("train", "val"):
            _register(f"minicity_fine_{task}_{split}", "minicity", split, task)
        for split in ("train", "val", "test"):
            _register(f"cityscapes_fine_{task}_{split}", "cityscapes", split, task)
    for split in ("train", "val"):
        load = functools.partial(_load_pennfudan, split)
        register_dataset(f"pennfudan_{split}", load, PENNFUDAN_METADATA, replace=True)
    for split in ("train", "val"):
        load = functools.partial(_load_nuclei, split)
        register_dataset(f"nuclei_{split}", load, NUCLEI_METADATA, replace=True)
    for split in ("train", "val", "test"):
        load = functools.partial(_load_camvid, split)
        register_dataset(f"camvid_sem_seg_{split}", load, CAMVID_METADATA, replace=True)
    for split in ("train", "trainaug", "val", "test"):
        load = functools.partial(_load_voc, split)
        register_dataset(f"voc_2012_sem_seg_{split}", load, voc_metadata(split), replace=True)

    for mode, folder in _MINIFIELDS.items():
        for split, folds in (("train", (1, 2, 3, 4)), ("val", (5,))):
            load = functools.partial(_load_minifields, mode, folds)
            name = f"{folder}_sem_seg_{split}"
            register_dataset(name, load, minifields_metadata(mode), replace=True)
    for fold in range(1, 6):
        # PASTIS-R's radar series of the same patches too
        for sensor, name in (("S2", "pastis"), ("S1A", "pastis_s1a"), ("S1D", "pastis_s1d")):
            load = functools.partial(_load_pastis, fold, sensor)
            register_dataset(f"{name}_sem_seg_fold{fold}", load, PASTIS_METADATA, replace=True)


def _register(name: str, folder: str, split: str, task: str) -> None:
    root, remedy = _cityscapes_root, _CITYSCAPES_REMEDY
    if folder == "minicity":
        root, remedy = _minicity_root, _MINICITY_REMEDY
    register_cityscapes_layout(name, root, split, task, remedy=remedy, replace=True)
    MetadataCatalog.get(name).set(**layout_folders(datasets_root() / folder, split))


def _cityscapes_root() -> Path:
    return datasets_root() / "cityscapes"


def _minicity_root() -> Path:
    from ..minicity import ensure_minicity

    root = datasets_root() / "minicity"
    ensure_minicity(root)
    return root


def _load_pennfudan(split: str) -> list[dict]:
    return load_pennfudan(datasets_root() / "PennFudanPed", split)


def _load_nuclei(split: str) -> list[dict]:
    return load_nuclei(datasets_root() / "nuclei", split)


def _load_camvid(split: str) -> list[dict]:
    return load_camvid(datasets_root() / "camvid", split)


def _load_voc(split: str) -> list[dict]:
    return load_voc(datasets_root(), split)


def _load_minifields(mode: str, folds: tuple[int, ...]) -> list[dict]:
    from ..minifields import Manifest, ensure_minifields

    root = datasets_root() / _MINIFIELDS[mode]
    ensure_minifields(root, mode)
    manifest = Manifest.read(root)
    if manifest.mode != mode:
        raise DatasetError(
            f'{root} holds a MiniFields of mode "{manifest.mode}"; expected "{mode}". Move it away.'
        )
    classes = len(minifields_metadata(mode)["stuff_classes"])
    return load_pastis(root, folds, num_classes=classes, ignore_label=255, ratio=manifest.ratio)


def _load_pastis(fold: int, sensor: str) -> list[dict]:
    return load_pastis(datasets_root() / "pastis", (fold,), sensor=sensor)
