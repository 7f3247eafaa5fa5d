"""Winograd's convolutions equal the direct ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deepfuse_d2.inference import winograd
from deepfuse_d2.inference.winograd import POINTS, WinogradConv2d, transforms


@pytest.mark.parametrize("m", list(POINTS))
def test_the_transforms_are_those_of_the_formula(m):
    a, g, b = transforms(m)
    rng = np.random.default_rng(0)
    image, filters = rng.normal(size=(m + 2, m + 2)), rng.normal(size=(3, 3))
    found = a @ ((g @ filters @ g.T) * (b @ image @ b.T)) @ a.T
    expected = np.zeros((m, m))
    for y in range(m):
        for x in range(m):
            expected[y, x] = (image[y : y + 3, x : x + 3] * filters).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("m", list(POINTS))
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_all_sizes_and_pieces_equal_the_direct_sum_in_float64(m, relu, bias, monkeypatch):
    monkeypatch.setattr(winograd, "_TILES", 5)
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    shift = torch.randn(6, dtype=torch.float64) if bias else None
    conv = WinogradConv2d(weight, shift, relu=relu, m=m)
    for shape in ((1, 4, 9, 14), (3, 4, 14, 14), (2, 4, 1, 2), (1, 4, 40, 3), (0, 4, 14, 14)):
        x = torch.randn(shape, dtype=torch.float64)
        expected = F.conv2d(x, weight, shift, padding=1)
        expected = expected.relu() if relu else expected
        for given in (x, x.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(conv(given), expected, rtol=1e-9, atol=1e-9)


def test_in_float32_the_points_keep_the_error_small(monkeypatch):
    weight = torch.randn(128, 128, 3, 3) / 34
    x = torch.randn(1, 128, 16, 16).relu()
    exact = F.conv2d(x.double(), weight.double(), padding=1)

    def error():
        return (WinogradConv2d(weight, None, relu=False)(x) - exact).abs().max() / exact.std()

    ours = error()
    assert ours < 3e-5
    monkeypatch.setitem(POINTS, 4, (0, 1, -1, 2, -2))
    assert error() > 1.5 * ours
