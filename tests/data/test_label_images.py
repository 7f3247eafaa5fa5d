import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from deepfuse_d2.data.images import upright_size
from deepfuse_d2.data.label_images import (
    check_same_size,
    encode_regions,
    read_labels,
)
from deepfuse_d2.errors import DatasetError


def reference(ids, keep):
    """One binary mask an id, encoded by pycocotools."""
    regions = []
    for value in np.unique(ids):
        if keep(np.array([value]))[0]:
            mask = ids == value
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            counts = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
            regions.append((value, box, counts))
    return regions


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 13), (40, 31)])
def test_regions_equal_masks_encoded_one_by_one(dtype, shape):
    rng = np.random.default_rng(0)
    for most in (1, 2, 5):
        ids = rng.integers(0, most, shape).astype(dtype)
        if min(shape) > 20:  # larger patches: runs that go on in the next column
            ids = np.kron(ids[:4, :4], np.ones((10, 8), dtype=dtype))
        for keep in (lambda ids: ids > 0, lambda ids: ids % 2 == 0, lambda ids: ids < 0):
            assert [tuple(region) for region in encode_regions(ids, keep)] == reference(ids, keep)


def test_an_image_without_pixels_has_no_regions():
    assert encode_regions(np.zeros((0, 5), np.uint8), lambda ids: ids >= 0) == []


def test_sixteen_bit_labels_keep_their_values(tmp_path):
    ids = np.array([[0, 26001], [33019, 65535]], dtype=np.uint16)
    Image.fromarray(ids).save(tmp_path / "ids.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "ids.png"), ids)


def test_palette_labels_are_read_as_indices(tmp_path):
    ids = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    image = Image.fromarray(ids).convert("P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    expected = np.asarray(image)
    image.save(tmp_path / "ids.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "ids.png"), expected)


def test_a_colour_image_is_refused_as_labels(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "color.png")
    with pytest.raises(DatasetError, match=r"color\.png .* one channel"):
        read_labels(tmp_path / "color.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_size_comes_from_the_header_and_a_cut_file_is_noticed(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert upright_size(path) == (40, 60)

    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DatasetError, match=rf"image\.{suffix} is damaged or incomplete"):
        upright_size(path)


def test_every_kind_of_damage_names_the_file(tmp_path):
    path = tmp_path / "ids.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (40, 60), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damaged in (b"", b"not an image", whole[:20], whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"ids\.png is damaged or incomplete \(.+\)"):
            read_labels(path)


def test_a_missing_file_is_called_missing(tmp_path):
    with pytest.raises(DatasetError, match=r"no\.png is missing"):
        read_labels(tmp_path / "no.png")
    with pytest.raises(DatasetError, match=r"no\.png is missing"):
        upright_size(tmp_path / "no.png")


def test_an_image_of_another_size_than_its_label_is_refused(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "image.png")
    check_same_size(tmp_path / "image.png", "label.png", (4, 8))
    with pytest.raises(DatasetError, match=r"image\.png is 8 x 4 .* label\.png is 4 x 8"):
        check_same_size(tmp_path / "image.png", "label.png", (8, 4))


def test_one_bit_masks_are_0_and_1(tmp_path):
    Image.fromarray(np.eye(5, dtype=bool)).save(tmp_path / "mask.png")
    assert np.array_equal(read_labels(tmp_path / "mask.png"), np.eye(5, dtype=np.uint8))
