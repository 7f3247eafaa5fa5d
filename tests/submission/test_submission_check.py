"""What the check of a written submission finds, on files broken one at a time."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from deepfuse_d2.submission.cityscapes import CityscapesInstances, CityscapesPixels
from deepfuse_d2.submission.voc import VocSegmentation

FRAME = "bonn_000000_000019"


@pytest.fixture
def instances(town, perfect, tmp_path):
    """A sound folder of instances; returns the folder and its check."""
    return _written(CityscapesInstances, "my_test", perfect, tmp_path)


@pytest.fixture
def pixels(town, tmp_path):
    import torch

    return _written(CityscapesPixels, "my_pixels", {"sem_seg": torch.zeros(20, 40)}, tmp_path)


@pytest.fixture
def classes(voc, tmp_path):
    import torch

    output = {"sem_seg": torch.arange(20).repeat_interleave(40).reshape(20, 40)}
    return _written(VocSegmentation, "my_voc", output, tmp_path)


def _written(kind, dataset, output, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    form, records = kind(MetadataCatalog.get(dataset)), DatasetCatalog.get(dataset)
    if "sem_seg" in output:
        output = {"sem_seg": output["sem_seg"].long()}
    for record in records:
        form.write(folder, record, output)
    assert form.check(folder, records) == []
    return folder, lambda: form.check(folder, records)


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (" 26 ", " 13 ", r"line 1: label id 13 is none of [24, 25, 26, 27, 28, 31, 32, 33]"),
        (" 26 ", " car ", "line 1: label id car is none of"),
        (" 26 ", "  26 ", "is not a path, a label id and a score"),
        (" 26 0", " 26 nan0", "line 1: score nan0.8"),
        ("masks/", "/masks/", f"/masks/{FRAME}_0.png lies outside of the submission"),
        ("masks/", "../masks/", "lies outside of the submission"),
        (f"{FRAME}_1", f"{FRAME}_0", f"masks/{FRAME}_0.png is named twice"),
        (f"{FRAME}_1", f"{FRAME}_9", f"masks/{FRAME}_9.png is missing"),
        (f"{FRAME}_1", f"{FRAME}_9", f"masks/{FRAME}_1.png is no file of the submission"),
    ],
)
def test_a_wrong_line_is_named(instances, old, new, problem):
    folder, check = instances
    replace(folder / f"{FRAME}_pred.txt", old, new)
    assert any(problem in found for found in check()), check()


def test_missing_stray_and_wrong_files_of_instances_are_named(instances):
    folder, check = instances
    mask = folder / "masks" / f"{FRAME}_0.png"
    Image.fromarray(np.zeros((20, 41), np.uint8)).save(mask)
    assert check() == [
        f"{FRAME}_pred.txt, line 1: masks/{FRAME}_0.png is 41 x 20 pixels, its image 40 x 20"
    ]
    Image.new("RGB", (40, 20)).save(mask)
    assert "no grey image of 8 bits (mode RGB)" in check()[0]
    mask.write_bytes(mask.read_bytes()[:-20])
    assert "is damaged" in check()[0]
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(mask)
    (folder / "notes.txt").touch()
    (folder / f"{FRAME}_pred.txt").unlink()
    problems = check()
    assert f"{FRAME}_pred.txt is missing" in problems
    assert "notes.txt is no file of the submission" in problems
    assert f"masks/{FRAME}_2.png is no file of the submission" in problems
    (folder / f"{FRAME}_pred.txt").write_bytes(b"\xff\xfe")
    assert f"{FRAME}_pred.txt is no text file" in check()


def test_wrong_pixel_labels_are_named(pixels):
    folder, check = pixels
    path = folder / f"{FRAME}_pred.png"
    Image.fromarray(np.full((20, 40), 255, np.uint8)).save(path)
    assert check() == [f"{FRAME}_pred.png holds the id 255, no label id"]
    Image.fromarray(np.zeros((21, 40), np.uint8)).save(path)
    assert check() == [f"{FRAME}_pred.png is 40 x 21 pixels, its image 40 x 20"]
    path.rename(folder / "other.png")
    assert check() == [
        f"{FRAME}_pred.png is missing", "other.png is no file of the submission",
    ]  # fmt: skip


def test_wrong_files_for_voc_are_named(classes):
    folder, check = classes
    path = folder / "VOC2012" / "Segmentation" / "comp6_test_cls" / "2008_000006.png"
    name = path.relative_to(folder).as_posix()
    with Image.open(path) as image:
        ids = np.asarray(image).copy()
    Image.fromarray(ids).save(path)
    assert check() == [f"{name} has no palette (mode L)"]
    palette = Image.fromarray(ids)
    palette.putpalette([1, 2, 3] * 256)
    palette.save(path)
    assert check() == [f"{name} has another palette than VOC"]
    palette = Image.fromarray(np.full((20, 40), 21, np.uint8))
    palette.putpalette([1, 2, 3] * 256)
    palette.save(path)
    assert check() == [f"{name} holds the id 21; expected 0..20"]
    path.unlink()
    assert check() == [f"{name} is missing"]
