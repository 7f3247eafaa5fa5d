"""RoIAlign as sums of rows, against torchvision's kernel and a loop over the formula."""

import math

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torchvision.ops import roi_align as torchvision_roi_align

from deepfuse_d2.kernels import roi_align as kernel
from deepfuse_d2.kernels.roi_align import RowROIAlign, roi_align
from deepfuse_d2.kernels.roi_samples import axis_matrices, axis_weights


def random_rois(count, dtype=torch.float64):
    """Boxes around two images of 160 x 100; one without area, one too large, one outside."""
    corners = torch.rand(count, 2, 2, dtype=dtype) * torch.tensor([160.0, 100.0]) - 10
    number = torch.randint(0, 2, (count, 1)).to(dtype)
    rois = torch.cat([number, corners.min(1).values, corners.max(1).values], 1)
    rois[0, 3] = rois[0, 1]
    rois[1, 1:] = torch.tensor([-50.0, -60.0, 300.0, 200.0])
    rois[2, 1:] = torch.tensor([500.0, 500.0, 600.0, 600.0])
    return rois


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_values_and_gradients_are_torchvisions(ratio, aligned, memory_format):
    features = torch.randn(2, 5, 25, 40, dtype=torch.float64).to(memory_format=memory_format)
    features.requires_grad_()
    rois = random_rois(30)
    arguments = (features, rois, (7, 5), 0.25, ratio, aligned)
    expected, found = torchvision_roi_align(*arguments), roi_align(*arguments)
    torch.testing.assert_close(found, expected)
    assert not found[2].any()
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad(x, features, weights)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def loop(column, start, end, bins, length):
    """One axis by the formula: the mean of bilinear samples in each bin."""
    step = (end - start) / bins
    count = math.ceil(step)
    result = []
    for i in range(bins):
        total = 0.0
        for j in range(count):
            at = start + i * step + (j + 0.5) * step / count
            if -1 <= at <= length:
                at = min(max(at, 0), length - 1)
                low = int(at)
                high = min(low + 1, length - 1)
                total += (1 - at + low) * column[low] + (at - low) * column[high]
        result.append(total / max(count, 1))
    return torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in result])


def test_an_axis_is_the_mean_of_its_samples():
    column = torch.randn(20, dtype=torch.float64)
    edges = torch.tensor([[-4.0, 3.3], [2.2, 19.9], [0.0, 7.0], [15.0, 40.0], [5.0, 5.0]]).double()
    first, weights = axis_weights(edges[:, 0], edges[:, 1], 7, 20)
    matrices = axis_matrices(first, weights, 0, 20)
    for matrix, (start, end) in zip(matrices, edges.tolist(), strict=True):
        torch.testing.assert_close(matrix @ column, loop(column, start, end, 7, 20))
    torch.testing.assert_close(axis_matrices(first, weights, 6, 9), matrices[:, :, 6:15])


def test_no_boxes_give_an_empty_map_that_is_part_of_the_graph():
    features = torch.randn(1, 4, 8, 8, requires_grad=True)
    pooled = roi_align(features, torch.zeros(0, 5), (3, 3), 0.25)
    assert pooled.shape == (0, 4, 3, 3)
    pooled.sum().backward()
    assert not features.grad.any()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_module_takes_the_place_of_detectron2s(dtype):
    stock = ROIAlign((7, 7), 0.25, 0)
    ours = RowROIAlign((7, 7), 0.25, 0)
    features, rois = torch.randn(2, 5, 25, 40).to(dtype), random_rois(10, torch.float32)
    expected = stock(features.float(), rois).to(dtype)
    trained = ours(features.clone().requires_grad_(), rois)
    assert trained.dtype == dtype
    torch.testing.assert_close(trained.detach(), expected)
    predicted = ours(features, rois)  # in the precision of the map
    assert predicted.dtype == dtype
    torch.testing.assert_close(
        predicted, expected, **({"atol": 0.02, "rtol": 0.02} if dtype.itemsize < 4 else {})
    )
    traced = torch.jit.trace(ours, (features.float(), rois))
    assert "roi_align" in str(traced.inlined_graph)


def poolers(scales, size=7, ratio=0, kind="ROIAlignV2"):
    """detectron2's pooler, and the same with levels of ours."""
    stock, ours = (
        ROIPooler(size, scales, ratio, kind, canonical_box_size=56, canonical_level=4)
        for _ in range(2)
    )
    for level in ours.level_poolers:
        level.__class__ = RowROIAlign
    return stock, ours


def random_boxes(count, width, height):
    corners = torch.rand(count, 2) * torch.tensor([width, height])
    # sides of all orders of magnitude
    return Boxes(torch.cat([corners, corners + torch.rand(count, 2) ** 3 * 256], 1))


@pytest.mark.parametrize("kind", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.parametrize(
    ("scales", "size"), [((1 / 4, 1 / 8, 1 / 16), 7), ((1 / 4, 1 / 8), 5), ((1 / 16,), (3, 14))]
)
def test_poolers_of_several_levels_give_what_detectron2s_give(scales, size, kind):
    stock, ours = poolers(scales, size, kind=kind)
    maps = [torch.randn(2, 8, round(160 * s), round(256 * s) + 1) for s in scales]
    boxes = [random_boxes(40, 256, 160), random_boxes(30, 256, 160)]
    torch.testing.assert_close(ours(maps, boxes), stock(maps, boxes), rtol=1e-4, atol=1e-5)
    none = Boxes(torch.zeros(0, 4))
    torch.testing.assert_close(ours(maps, [none, boxes[0]]), stock(maps, [none, boxes[0]]))
    assert ours(maps, [none, none]).shape == stock(maps, [none, none]).shape


def test_boxes_outside_empty_inverted_and_huge_are_pooled_as_by_detectron2():
    stock, ours = poolers((1 / 4, 1 / 8))
    maps = [torch.randn(1, 4, 16, 24), torch.randn(1, 4, 8, 12)]
    corners = [
        [-30.0, -20, 20, 10], [80, 50, 200, 190], [300, 300, 310, 330], [-90, -90, -50, -60],
        [10, 10, 10, 10], [10, 10, 10, 40], [0, 0, 96, 64], [-500, -500, 900, 900],
        [95.9, 63.9, 96, 64],
    ]  # fmt: skip
    boxes = [Boxes(torch.tensor(corners))]
    torch.testing.assert_close(ours(maps, boxes), stock(maps, boxes), rtol=1e-4, atol=1e-5)


def test_many_boxes_go_in_pieces_with_the_same_gradient(monkeypatch):
    features = torch.randn(2, 4, 32, 48, dtype=torch.float64, requires_grad=True)
    rois = random_rois(50)
    whole = roi_align(features, rois, (7, 7), 0.25)
    monkeypatch.setattr(kernel, "_MOST", 1000)
    calls = []
    sums = kernel._sums
    monkeypatch.setattr(kernel, "_sums", lambda *args: calls.append(args) or sums(*args))
    pieces = roi_align(features, rois, (7, 7), 0.25)
    assert len(calls) > 3
    assert sum(len(args[0]) for args in calls) == 50
    torch.testing.assert_close(pieces, whole)
    weights = torch.randn_like(whole)
    gradients = [torch.autograd.grad(x, features, weights)[0] for x in (pieces, whole)]
    torch.testing.assert_close(*gradients)
