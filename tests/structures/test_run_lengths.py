"""Windows of masks cut from their run lengths: what decoding all and then cutting gives."""

import numpy as np
import pytest
from pycocotools import mask as mask_util

from deepfuse_d2.structures.run_lengths import Runs, decode_counts


def random_masks(count):
    """(mask, RLE) of many sizes, from empty over noise to full."""
    random = np.random.default_rng(0)
    for _ in range(count):
        size = random.integers(1, 70, 2)
        density = random.choice([0.0, 0.02, 0.5, 0.98, 1.0])
        mask = np.asfortranarray(random.random(size) < density, dtype=np.uint8)
        yield mask, mask_util.encode(mask)


def test_counts_are_those_that_were_compressed():
    for mask, rle in random_masks(60):
        counts = decode_counts(rle["counts"])
        assert (counts >= 0).all()
        assert counts.sum() == mask.size
        again = mask_util.frPyObjects({"size": rle["size"], "counts": counts.tolist()}, *mask.shape)
        assert again["counts"] == rle["counts"]


def test_counts_of_large_masks_take_several_digits():
    mask = np.zeros((1024, 2048), dtype=np.uint8, order="F")
    mask[1000:, 2047] = 1
    counts = decode_counts(mask_util.encode(mask)["counts"].decode())
    assert counts.tolist() == [2047 * 1024 + 1000, 24]
    assert decode_counts(counts.tolist()).tolist() == counts.tolist()


def test_the_box_is_tight():
    for mask, rle in random_masks(200):
        rows, columns = np.nonzero(mask)
        expected = rows.size and (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert Runs(rle).box == (expected or None)


def test_columns_are_those_of_the_mask():
    random = np.random.default_rng(1)
    for mask, rle in random_masks(200):
        x0 = int(random.integers(0, mask.shape[1]))
        x1 = int(random.integers(x0 + 1, mask.shape[1] + 1))
        assert np.array_equal(Runs(rle).columns(x0, x1), mask[:, x0:x1].T)


@pytest.mark.parametrize("counts", ["13", b"", [3, 2], "\x70"])
def test_damaged_runs_are_told_by_their_sum(counts):
    with pytest.raises(ValueError, match=r"its runs cover \d pixels, and 4 x 5 pixels are 20"):
        Runs({"size": [4, 5], "counts": counts})
