import shutil
import sys
import tarfile

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from PIL import Image

from deepfuse_d2.data.datasets.sbd import read_sbd
from deepfuse_d2.data.datasets.voc import load_voc, voc_palette
from deepfuse_d2.errors import DatasetError

IDS = np.array([[0, 0, 5, 5], [15, 20, 255, 0], [1, 1, 1, 1]], dtype=np.uint8)


def save_palette(ids, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    image.putpalette(voc_palette().ravel().tolist())
    image.save(path)


def save_mat(ids, path):
    """A .mat of SBD's form: a 1 x 1 struct GTcls with the classes among other fields."""
    scipy_io = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "Segmentation": ids,
        "Boundaries": np.zeros((20, 1), dtype=object),
        "CategoriesPresent": np.unique(ids)[:, None],
    }
    scipy_io.savemat(path, {"GTcls": fields}, do_compression=True)


def save_image(path, ids=IDS):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", ids.shape[::-1], (5, 6, 7)).save(path)


@pytest.fixture
def root(tmp_path):
    """VOC: train a, b; val v; test t. SBD: train a, c; val v, d. c's image is VOC's, too."""
    root = tmp_path / "sets"
    voc, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, stems in (("train", "ab"), ("val", "v"), ("test", "t")):
        (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    for stem in "abvtc":
        save_image(voc / "JPEGImages" / f"{stem}.jpg")
    for stem in "abv":
        save_palette(IDS, voc / "SegmentationClass" / f"{stem}.png")
    save_palette(IDS, voc / "SegmentationObject" / "a.png")
    for stem in "acvd":
        save_mat(np.where(IDS == 255, 3, IDS).astype(np.uint8), sbd / "cls" / f"{stem}.mat")
        save_image(sbd / "img" / f"{stem}.jpg")
    (sbd / "train.txt").write_text("a\nc\n")
    (sbd / "val.txt").write_text("v\nd\n")
    return root


def mapped_labels(record):
    return DatasetMapper(True, augmentations=[], image_format="BGR")(record)["sem_seg"].numpy()


def test_the_palette_is_the_official_one():
    palette = voc_palette()
    assert palette[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192],
    ]  # fmt: skip


def test_palette_labels_become_ids_that_detectron2s_mapper_reads(root):
    first, second = load_voc(root, "train")
    np.testing.assert_array_equal(mapped_labels(first), IDS)
    assert first["image_id"] == "a"
    assert first["object_file_name"].endswith("SegmentationObject/a.png")
    assert "object_file_name" not in second
    assert [record["image_id"] for record in load_voc(root, "val")] == ["v"]


def test_trainaug_adds_sbd_to_train_and_leaves_val_out(root):
    records = load_voc(root, "trainaug")
    assert [record["image_id"] for record in records] == ["a", "b", "c", "d"]
    a, _, c, d = records
    np.testing.assert_array_equal(mapped_labels(a), IDS)  # VOC's own label, with void
    np.testing.assert_array_equal(mapped_labels(c), np.where(IDS == 255, 3, IDS))
    assert c["file_name"] == str(root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "c.jpg")
    assert d["file_name"] == str(root / "benchmark_RELEASE" / "dataset" / "img" / "d.jpg")
    assert load_voc(root, "trainaug") == records


def test_a_folder_of_augmented_labels_takes_the_place_of_sbd(root):
    shutil.rmtree(root / "benchmark_RELEASE")
    folder = root / "VOCdevkit" / "VOC2012"
    with pytest.raises(DatasetError, match=r"dataset/train\.txt is missing .*deepfuse prepare voc"):
        load_voc(root, "trainaug")
    for stem in "abvc":
        save_image(folder / "SegmentationClassAug" / f"{stem}.png")  # never read but for c
    Image.fromarray(IDS).save(folder / "SegmentationClassAug" / "c.png")
    records = load_voc(root, "trainaug")
    assert [record["image_id"] for record in records] == ["a", "b", "c"]
    np.testing.assert_array_equal(mapped_labels(records[2]), IDS)


def test_the_test_split_has_images_only(root):
    (record,) = load_voc(root, "test")
    assert record == {
        "file_name": str(root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "t.jpg"),
        "image_id": "t",
        "height": 3,
        "width": 4,
    }
    (root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "t.jpg").unlink()
    with pytest.raises(DatasetError, match=r"t\.jpg is missing.*deepfuse prepare voc"):
        load_voc(root, "test")


def test_an_incomplete_set_is_told(root, caplog):
    load_voc(root, "trainaug")
    assert "has 4 trainaug images; the whole data set has 10582" in caplog.text


def test_a_wrong_split_or_label_is_named(root):
    with pytest.raises(ValueError, match="split = 'trainval' is unknown"):
        load_voc(root, "trainval")
    save_palette(IDS + 1, root / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "v.png")
    with pytest.raises(DatasetError, match=r"v\.png holds the id 21; expected 0\.\.20, or 255"):
        load_voc(root, "val")


def test_a_damaged_or_foreign_mat_file_is_named(root, tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    path = root / "benchmark_RELEASE" / "dataset" / "cls" / "d.mat"
    whole = path.read_bytes()
    message = r"d\.mat is damaged, or no label file of SBD's folder cls"
    for content in (b"", b"nothing", whole[: len(whole) // 2], whole[:60] + whole[80:]):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            read_sbd(str(path))
    scipy_io.savemat(path, {"GTinst": IDS})
    with pytest.raises(DatasetError, match=message):
        load_voc(root, "trainaug")


def test_without_scipy_the_extra_is_named(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DatasetError, match=r"install it by `pip install 'deepfuse-d2\[voc\]'`"):
        load_voc(root, "trainaug")
    assert len(load_voc(root, "train")) == 2


def test_voc_and_sbd_are_prepared_from_their_archives(root, tmp_path, deepfuse, capsys):
    made = tmp_path / "made"
    voc, sbd = tmp_path / "voc.tar", tmp_path / "benchmark.tgz"
    with tarfile.open(voc, "w") as archive:
        archive.add(root / "VOCdevkit", "VOCdevkit")
        (tmp_path / "dog.xml").write_text("not wanted")
        archive.add(tmp_path / "dog.xml", "VOCdevkit/VOC2012/Annotations/dog.xml")
    with tarfile.open(sbd, "w:gz") as archive:
        archive.add(root / "benchmark_RELEASE", "benchmark_RELEASE")

    def run(*sources):
        code = deepfuse("prepare", "voc", "--source", *sources, "--root", made)
        return code, *capsys.readouterr()

    code, output, _ = run(voc, sbd)
    assert code == 0
    assert "VOCdevkit is complete (test, train, val)" in output
    assert "benchmark_RELEASE is complete" in output
    assert len(load_voc(made, "trainaug")) == 4
    assert not (made / "VOCdevkit" / "VOC2012" / "Annotations").exists()

    shutil.rmtree(made)
    (root / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "b.png").unlink()
    code, _, error = run(root)
    assert code == 2
    assert "1 files are missing: VOC2012/SegmentationClass/b.png" in error
    assert list(made.iterdir()) == []
    code, _, error = run(tmp_path / "dog.xml")
    assert code == 2
    assert "is no tar file that can be read" in error
    with tarfile.open(voc, "w") as archive:
        archive.add(tmp_path / "dog.xml", "dog.xml")
    code, _, error = run(voc)
    assert code == 2
    assert "holds neither VOC 2012 nor SBD" in error
    with tarfile.open(voc, "w") as archive:
        archive.add(tmp_path / "dog.xml", "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt")
        archive.add(tmp_path / "dog.xml", "../evil.txt")
    code, _, error = run(voc)
    assert code == 2
    assert "would leave the folder" in error
    assert not (tmp_path / "evil.txt").exists()
