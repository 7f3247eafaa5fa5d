"""Cropped masks against detectron2's BitMasks of the same pixels."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks, Boxes, Instances

from deepfuse_d2.structures.cropped_masks import CroppedMasks
from deepfuse_d2.structures.mask_crops import EMPTY, MaskCrop

HEIGHT, WIDTH = 50, 70


def both_kinds(seed, count=5, density=0.7):
    """BitMasks, and CroppedMasks of the same masks; the last one is empty."""
    random = np.random.default_rng(seed)
    full = torch.zeros(count, HEIGHT, WIDTH, dtype=torch.bool)
    crops = []
    for mask in full[:-1]:
        x0, y0 = int(random.integers(0, WIDTH - 1)), int(random.integers(0, HEIGHT - 1))
        x1, y1 = int(random.integers(x0 + 1, WIDTH + 1)), int(random.integers(y0 + 1, HEIGHT + 1))
        crop = random.random((y1 - y0, x1 - x0)) < density
        mask[y0:y1, x0:x1] = torch.from_numpy(crop)
        crops.append(MaskCrop(y0, x0, crop))
    return BitMasks(full), CroppedMasks.from_crops([*crops, EMPTY], (HEIGHT, WIDTH))


def random_boxes(count, whole):
    corners = torch.rand(count, 2, 2) * torch.tensor([WIDTH, HEIGHT])
    if whole:
        corners = corners.round()
    return torch.cat([corners.min(1).values, corners.max(1).values], 1)


@pytest.mark.parametrize(
    "item",
    [2, slice(1, 4), torch.tensor([True, False, True, True, False]), torch.tensor([3, 0, 3, 4])],
)
def test_indexing_selects_the_same_masks_and_copies_no_pixels(item):
    stock, ours = both_kinds(0)
    assert torch.equal(ours[item].tensor, stock[item].tensor)
    assert ours[item].pixels.data_ptr() == ours.pixels.data_ptr()
    assert len(ours[item]) == len(stock[item])
    assert ours[item].image_size == stock[item].image_size
    again = torch.tensor([0, 0])[: len(ours[item])]
    assert torch.equal(ours[item][again].tensor, stock[item][again].tensor)


@pytest.mark.parametrize("density", [0.01, 0.7])
def test_boxes_and_empty_masks_are_found(density):
    for seed in range(10):
        stock, ours = both_kinds(seed, density=density)
        index = torch.tensor([4, 1, 1, 0])
        for a, b in ((stock, ours), (stock[index], ours[index])):
            assert torch.equal(b.nonempty(), a.nonempty())
            assert torch.equal(b.get_bounding_boxes().tensor, a.get_bounding_boxes().tensor)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("size", [7, 28])
def test_targets_of_the_mask_head_are_the_same(whole, size):
    for seed in range(4):
        stock, ours = both_kinds(seed)
        index = torch.randint(0, 5, (40,))
        boxes = random_boxes(40, whole)
        boxes[0] = torch.tensor([-3.0, -40.0, WIDTH + 8.0, HEIGHT + 30.0])
        boxes[1] = torch.tensor([5.0, 6.0, 5.0, 6.0])
        expected = stock[index].crop_and_resize(boxes, size)
        found = ours[index].crop_and_resize(boxes, size)
        assert found.dtype == torch.bool
        assert 0 < expected.sum() < expected.numel()
        # sums of floats in another order may fall on the other side of one half
        rois = torch.cat([torch.arange(40.0)[:, None], boxes], 1)
        soft = ROIAlign((size, size), 1.0, 0)(stock[index].tensor[:, None].float(), rois)[:, 0]
        clear = (soft - 0.5).abs() > 1e-5
        assert torch.equal(found[clear], expected[clear])
        assert clear.float().mean() > 0.95


def test_nothing_is_resized_to_nothing():
    _, ours = both_kinds(0)
    assert ours[[]].crop_and_resize(torch.zeros(0, 4), 28).shape == (0, 28, 28)
    none = CroppedMasks.from_crops([], (HEIGHT, WIDTH))
    assert none.tensor.shape == (0, HEIGHT, WIDTH)
    assert none.get_bounding_boxes().tensor.shape == (0, 4)
    assert none.nonempty().shape == (0,)


def test_they_are_fields_of_instances_like_others():
    stock, ours = both_kinds(1)
    found, expected = Instances((HEIGHT, WIDTH)), Instances((HEIGHT, WIDTH))
    for instances, masks in ((found, ours), (expected, stock)):
        instances.gt_boxes = Boxes(torch.arange(20.0).reshape(5, 4))
        instances.gt_masks = masks
    found = Instances.cat([found, found[[4, 2]].to("cpu")])
    expected = Instances.cat([expected, expected[[4, 2]]])
    assert torch.equal(found.gt_masks.tensor, expected.gt_masks.tensor)
    assert all(torch.equal(a, b) for a, b in zip(found.gt_masks, expected.gt_masks, strict=True))
    assert isinstance(found.gt_masks, BitMasks)


def test_they_travel_from_a_worker_without_the_image():
    _, ours = both_kinds(2)
    sent = pickle.dumps(ours)
    assert len(sent) < 5 * HEIGHT * WIDTH
    assert torch.equal(pickle.loads(sent).tensor, ours.tensor)


def test_masks_of_images_of_several_sizes_are_not_concatenated():
    _, ours = both_kinds(2)
    other = CroppedMasks(ours.pixels, ours.windows, (60, 70))
    with pytest.raises(AssertionError, match="images of sizes"):
        CroppedMasks.cat([ours, other])
