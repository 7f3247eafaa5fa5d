import os

import numpy as np
import pytest
from PIL import Image

from deepfuse_d2.data import label_runs
from deepfuse_d2.data.label_runs import read_labels_cached
from deepfuse_d2.errors import DatasetError

IDS = np.kron(np.array([[0, 7, 26001], [24002, 7, 65535]]), np.ones((20, 30))).astype(np.uint16)


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "gtFine" / "val" / "ulm" / "ulm_000000_000019_gtFine_instanceIds.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(IDS).save(path)
    label_runs._folder_of.cache_clear()
    return path


def kept_files(root):
    return list(root.rglob("label_runs/**/*.npz"))


def count_decoding(monkeypatch):
    decoded = []

    def decode(path):
        decoded.append(path)
        with Image.open(path) as image:
            return np.asarray(image)

    monkeypatch.setattr(label_runs, "read_labels", decode)
    return decoded


def test_the_second_reading_is_equal_in_value_and_type_and_decodes_nothing(
    png, tmp_path, monkeypatch
):
    decoded = count_decoding(monkeypatch)
    first, second = read_labels_cached(str(png)), read_labels_cached(str(png))
    np.testing.assert_array_equal(first, IDS)
    np.testing.assert_array_equal(second, IDS)
    assert first.dtype == second.dtype
    assert len(decoded) == 1
    assert len(kept_files(tmp_path)) == 1


def test_a_changed_label_image_is_read_again(png):
    read_labels_cached(str(png))
    Image.fromarray(IDS[::-1].copy()).save(png)
    os.utime(png, ns=(1, 1))
    np.testing.assert_array_equal(read_labels_cached(str(png)), IDS[::-1])
    np.testing.assert_array_equal(read_labels_cached(str(png)), IDS[::-1])


@pytest.mark.parametrize("content", [b"", b"no archive", b"half"])
def test_a_damaged_cache_file_is_said_and_made_again(png, tmp_path, content, caplog):
    read_labels_cached(str(png))
    (kept,) = kept_files(tmp_path)
    kept.write_bytes(kept.read_bytes()[:-30] if content == b"half" else content)
    np.testing.assert_array_equal(read_labels_cached(str(png)), IDS)
    assert "is damaged" in caplog.text
    np.testing.assert_array_equal(read_labels_cached(str(png)), IDS)
    assert caplog.text.count("is damaged") == 1


def test_noise_and_files_of_other_layouts_are_not_kept(png, tmp_path):
    noise = np.random.default_rng(0).integers(0, 34, (40, 60)).astype(np.uint8)
    Image.fromarray(noise).save(png)
    np.testing.assert_array_equal(read_labels_cached(str(png)), noise)
    elsewhere = tmp_path / "labels.png"
    Image.fromarray(IDS).save(elsewhere)
    np.testing.assert_array_equal(read_labels_cached(str(elsewhere)), IDS)
    assert kept_files(tmp_path) == []


def test_a_missing_label_image_is_named_though_its_runs_are_kept(png):
    read_labels_cached(str(png))
    png.unlink()
    with pytest.raises(DatasetError, match=r"gtFine_instanceIds\.png is missing"):
        read_labels_cached(str(png))


def test_nothing_is_written_into_the_data_set(png, tmp_path, unchanged):
    unchanged(tmp_path / "gtFine")
    read_labels_cached(str(png))
    assert len(kept_files(tmp_path)) == 1


def test_a_cache_that_cannot_be_written_is_done_without_the_same(png, monkeypatch):
    monkeypatch.setattr(label_runs, "_folder_of", lambda *key: None)
    np.testing.assert_array_equal(read_labels_cached(str(png)), IDS)
