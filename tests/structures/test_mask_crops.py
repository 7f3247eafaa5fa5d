import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from pycocotools import mask as coco_mask

from deepfuse_d2.structures.mask_crops import (
    MaskCrop,
    crops_from_masks,
    crops_from_rle,
    crops_from_unpasted,
)


def _paste(crop, shape):
    return crop.paste(np.zeros(shape, dtype=bool))


def _random_masks(seed, count=40, height=23, width=31):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, height, width)) < rng.choice([0.002, 0.05, 0.5, 1.0], (count, 1, 1))
    masks[0] = False
    masks[1] = True
    masks[2, 0, 0] = masks[2, -1, -1] = True
    return masks


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_crops_hold_all_of_a_mask_and_no_empty_border(dtype):
    masks = _random_masks(0)
    for mask, crop in zip(masks, crops_from_masks(masks.astype(dtype) * dtype(200)), strict=True):
        np.testing.assert_array_equal(_paste(crop, mask.shape), mask)
        if mask.any():
            inside = crop.pixels
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        else:
            assert crop.pixels.size == 0


@pytest.mark.parametrize("form", ["bytes", "str", "list"])
def test_crops_from_rle_equal_those_of_pycocotools(form):
    masks = _random_masks(1)
    rles = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    if form == "str":
        rles = [{**rle, "counts": rle["counts"].decode()} for rle in rles]
    if form == "list":
        rles = [{"size": [*mask.shape], "counts": _runs(mask)} for mask in masks]
    for mask, crop in zip(masks, crops_from_rle(rles), strict=True):
        np.testing.assert_array_equal(_paste(crop, mask.shape), mask)


def test_long_runs_of_a_large_mask_decode_exactly():
    mask = np.zeros((1024, 2048), dtype=np.uint8)
    mask[3, 5] = mask[700:, 1500:] = 1
    (crop,) = crops_from_rle([coco_mask.encode(np.asfortranarray(mask))])
    np.testing.assert_array_equal(_paste(crop, mask.shape), mask)


@pytest.mark.parametrize("seed", range(5))
def test_unpasted_masks_give_the_bits_of_detectron2s_paste(seed):
    generator = torch.Generator().manual_seed(seed)
    count, height, width = 60, 97, 131
    masks = torch.rand(count, 1, 28, 28, generator=generator)
    masks[:20] = (masks[:20] > 0.4).float()
    sides = torch.exp(torch.rand(count, 2, generator=generator) * 5)  # 1 .. 148 pixels
    centres = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    boxes[10:, 0::2] = boxes[10:, 0::2].clamp(0, width)  # the first ten reach out of the image
    boxes[10:, 1::2] = boxes[10:, 1::2].clamp(0, height)
    boxes[30:40] = boxes[30:40].round()
    pasted = paste_masks_in_image(masks[:, 0], boxes, (height, width)).numpy()
    crops = crops_from_unpasted(masks, boxes, (height, width))
    for crop, expected in zip(crops, pasted, strict=True):
        np.testing.assert_array_equal(_paste(crop, (height, width)), expected)


def test_an_unpasted_mask_outside_the_image_is_empty():
    boxes = torch.tensor([[50.0, 2.0, 60.0, 8.0]])
    (crop,) = crops_from_unpasted(torch.ones(1, 1, 28, 28), boxes, (20, 20))
    assert crop.pixels.size == 0


def test_soft_masks_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"float32 of shape .*Threshold soft masks first"):
        next(crops_from_masks(np.zeros((1, 4, 4), dtype=np.float32)))


def masks_of_all_kinds():
    yield np.zeros((5, 7), dtype=bool)
    yield np.ones((5, 7), dtype=bool)
    yield from _random_masks(2, count=20)
    runs_on = np.zeros((4, 6), dtype=bool)  # from the bottom of a column to the top of the next
    runs_on[2:, 2] = runs_on[:2, 3] = runs_on[3, 5] = True
    yield runs_on


def test_run_lengths_of_a_crop_are_those_of_the_whole_mask():
    for mask in masks_of_all_kinds():
        rle = MaskCrop.of(mask).rle(*mask.shape)
        expected = coco_mask.encode(np.asfortranarray(mask).view(np.uint8))["counts"].decode()
        assert rle == {"size": [*mask.shape], "counts": expected}


def test_parts_unions_and_overlaps_are_those_of_whole_masks():
    random = np.random.default_rng(0)
    shape = (40, 40)
    for _ in range(50):
        crops = [
            MaskCrop(*random.integers(0, 20, 2).tolist(), random.random(sides) < 0.6)
            for sides in random.integers(0, 15, (2, 2)).tolist()
        ]
        masks = [_paste(crop, shape) for crop in crops]
        union, common = masks[0] | masks[1], masks[0] & masks[1]
        assert [crop.area for crop in crops] == [mask.sum() for mask in masks]
        assert crops[0].iou(crops[1]) == pytest.approx(common.sum() / max(union.sum(), 1))
        np.testing.assert_array_equal(_paste(MaskCrop.union(crops), shape), union)
        top, left, bottom, right = 5, 8, 20, 30
        expected = np.zeros(shape, dtype=bool)
        expected[top:bottom, left:right] = masks[0][top:bottom, left:right]
        np.testing.assert_array_equal(
            _paste(crops[0].part(top, left, bottom, right), shape), expected
        )
        moved = np.roll(masks[1], (3, 4), (0, 1))
        np.testing.assert_array_equal(_paste(crops[1].moved(3, 4), shape), moved)


def test_a_damaged_rle_is_refused():
    with pytest.raises(ValueError, match="its runs cover 5 pixels, and 2 x 3 pixels are 6"):
        next(crops_from_rle([{"size": [2, 3], "counts": [2, 3]}]))
    with pytest.raises(ValueError, match="its runs cover 0 pixels"):
        next(crops_from_rle([{"size": [2, 3], "counts": b"Q"}]))


def _runs(mask):
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flat, [1 - flat[-1]]))))
    return np.diff(np.concatenate(([0], edges))).tolist()
