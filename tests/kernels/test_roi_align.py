"""RoIAlign as sums of rows, against torchvision's kernel and a loop over the formula."""

import math

import pytest
import torch
from detectron2.layers import ROIAlign
from torchvision.ops import roi_align as torchvision_roi_align

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
    found = ours(features, rois)
    assert found.dtype == dtype
    expected = stock(features.float(), rois).to(dtype)
    torch.testing.assert_close(found, expected)
    traced = torch.jit.trace(ours, (features.float(), rois))
    assert "roi_align" in str(traced.inlined_graph)
