"""Bringing maps to the size of a target: against loops, at odd sizes, and its errors."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from deepfuse_d2.layers import DOWNSAMPLES, UPSAMPLES, resample
from deepfuse_d2.layers.resample import Resample, StridedConvs
from deepfuse_d2.layers.resample import bilinear as resize_bilinear


def pooled(x, window, reduce):
    """Windows side by side, the last ones as wide as there are pixels."""
    n, channels, rows, columns = x.shape
    result = x.new_empty(n, channels, math.ceil(rows / window), math.ceil(columns / window))
    for i, j in itertools.product(range(result.shape[2]), range(result.shape[3])):
        cell = x[:, :, i * window : (i + 1) * window, j * window : (j + 1) * window]
        result[:, :, i, j] = reduce(cell)
    return result


def bilinear(x, size):
    """Between the centres of pixels, constant beyond the outermost centres."""

    def weights(length, target):
        matrix = x.new_zeros(target, length)
        for i in range(target):
            position = (i + 0.5) * length / target - 0.5
            position = min(max(position, 0), length - 1)
            low = math.floor(position)
            matrix[i, low] += 1 - (position - low)
            matrix[i, min(low + 1, length - 1)] += position - low
        return matrix

    rows, columns = weights(x.shape[2], size[0]), weights(x.shape[3], size[1])
    return torch.einsum("ir,ncrs,js->ncij", rows, x, columns)


@pytest.mark.parametrize("size", [(16, 24), (17, 25), (9, 2)])
@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_pooling_covers_the_border_with_what_there_is(ratio, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    target = tuple(-(-length // ratio) for length in size)
    found = Resample(3, 4, 4 * ratio, downsample="max_pool")(x, target)
    assert torch.equal(found, pooled(x, ratio, lambda cell: cell.amax(dim=(2, 3))))
    found = Resample(3, 4, 4 * ratio, downsample="avg_pool")(x, target)
    torch.testing.assert_close(found, pooled(x, ratio, lambda cell: cell.mean(dim=(2, 3))))


def test_convolutions_halve_once_for_each_factor_of_two_and_rectify_in_between():
    module = Resample(3, 4, 16, downsample="conv").double()
    assert isinstance(module.down, StridedConvs)
    first, second = module.down.convs
    x = torch.randn(2, 3, 13, 18, dtype=torch.float64)
    middle = F.conv2d(x, first.weight, first.bias, stride=2, padding=1)
    assert middle.min() < 0
    expected = F.conv2d(middle.clamp(min=0), second.weight, second.bias, stride=2, padding=1)
    torch.testing.assert_close(module(x, (4, 5)), expected)


@pytest.mark.parametrize("size", [(10, 14), (9, 15), (5, 7), (1, 40)])
def test_bilinear_interpolates_between_the_centres_of_pixels(size):
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    found = Resample(3, 8, 4, upsample="bilinear")(x, size)
    torch.testing.assert_close(found, bilinear(x, size))


def test_nearest_to_twice_the_size_is_the_upsampling_of_fpn():
    x = torch.randn(1, 3, 5, 7)
    expected = F.interpolate(x, scale_factor=2.0, mode="nearest")
    assert torch.equal(resample(x, (10, 14)), expected)
    assert torch.equal(Resample(3, 8, 4)(x, (10, 14)), expected)


def test_a_map_of_the_right_size_is_passed_on_as_it_is():
    x = torch.randn(1, 3, 5, 7)
    for mode in UPSAMPLES:
        assert resample(x, (5, 7), mode) is x


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_trace_of_maps_of_one_pixel_serves_larger_ones():
    class Fpn(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.resample = Resample(3, 8, 4)

        def forward(self, target, source):
            return target + self.resample(source, (target.shape[2], target.shape[3]))

    traced = torch.jit.trace(Fpn(), (torch.randn(1, 3, 1, 1), torch.randn(1, 3, 1, 1)))
    target, source = torch.randn(1, 3, 5, 8), torch.randn(1, 3, 3, 4)
    assert torch.equal(traced(target, source), Fpn()(target, source))


@pytest.mark.parametrize("downsample", DOWNSAMPLES)
def test_a_size_off_by_a_pixel_is_met_exactly(downsample):
    # a network that rounds down gives 5 x 8 where pooling gives 6 x 9
    found = Resample(3, 4, 8, downsample=downsample)(torch.randn(1, 3, 11, 17), (5, 8))
    assert found.shape == (1, 3, 5, 8)


@pytest.mark.parametrize("downsample", DOWNSAMPLES)
def test_only_finer_sources_have_weights_to_come_down_by(downsample):
    coarser, equal = (
        Resample(3, stride, 8, downsample=downsample, norm="BN") for stride in (16, 8)
    )
    assert not list(coarser.parameters())
    assert not list(equal.parameters())
    finer = Resample(3, 2, 8, downsample=downsample, norm="BN")
    names = [name for name, _ in finer.named_parameters()]
    expected = ["weight", "norm.weight", "norm.bias"]
    assert names == (
        [f"down.convs.{i}.{name}" for i in (0, 1) for name in expected]
        if downsample == "conv"
        else []
    )


def test_a_ratio_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="stride 4 cannot be brought down to stride 12"):
        Resample(3, 4, 12)
    with pytest.raises(ValueError, match="the ratio must be a power of two"):
        Resample(3, 8, 12)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
def test_maps_that_autocast_made_smaller_are_resized_in_float32(channels_last, align_corners):
    x = torch.randn(2, 64, 13, 17).bfloat16()
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    exact = F.interpolate(x.float(), (31, 45), mode="bilinear", align_corners=align_corners)
    with torch.autocast("cpu", torch.bfloat16):
        found = resize_bilinear(x, (31, 45), align_corners=align_corners)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())
    # what torch itself gives is rounded on the way, on some machines
    theirs = F.interpolate(x, (31, 45), mode="bilinear", align_corners=align_corners)
    assert (found - exact).norm() <= (theirs - exact).norm()
