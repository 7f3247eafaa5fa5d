"""Winograd's convolutions equal the direct ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d

from deepfuse_d2.kernels import winograd
from deepfuse_d2.kernels.capabilities import has_bfloat16, isa
from deepfuse_d2.kernels.packed_conv import InferenceConv2d
from deepfuse_d2.kernels.winograd import POINTS, WinogradConv2d, transforms

TILED_BFLOAT16 = has_bfloat16() and isa() != "amx"


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
    conv = WinogradConv2d(weight, shift, m=m)
    torch.testing.assert_close(conv.weight, weight)
    for shape in ((1, 4, 9, 14), (3, 4, 14, 14), (5, 4, 1, 2), (2, 4, 40, 3), (0, 4, 14, 14)):
        x = torch.randn(shape, dtype=torch.float64)
        before = x.clone()
        expected = F.conv2d(x, weight, shift, padding=1)
        expected = expected.relu() if relu else expected
        for given in (x, x.contiguous(memory_format=torch.channels_last)):
            found = conv(given, relu=relu)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
            assert not found.numel() or found.permute(0, 2, 3, 1)[:1].stride(-1) == 1
        assert torch.equal(x, before)


@pytest.mark.parametrize("tiles", [7, 128])
def test_any_size_is_cut_into_pieces_alike_in_float32(tiles, monkeypatch):
    monkeypatch.setattr(winograd, "_TILES", tiles)
    weight, bias = torch.randn(40, 24, 3, 3) / 15, torch.randn(40)
    conv = WinogradConv2d(weight, bias)
    torch.testing.assert_close(conv.weight, weight, rtol=1e-5, atol=1e-5)
    for shape in ((1, 24, 9, 37), (5, 24, 14, 14), (1, 24, 3, 3), (0, 24, 14, 14)):
        x = torch.randn(shape)
        torch.testing.assert_close(
            conv(x), F.conv2d(x, weight, bias, padding=1), rtol=1e-4, atol=1e-4
        )


def test_a_batch_of_large_maps_takes_the_buffers_of_one_piece(monkeypatch):
    monkeypatch.setattr(winograd, "_TILES", 6)
    conv = WinogradConv2d(torch.randn(3, 2, 3, 3), None)
    pieces, real = [], conv._tiles
    monkeypatch.setattr(
        conv,
        "_tiles",
        lambda given, *more: (pieces.append(more[2].numel() // 72), real(given, *more))[1],
    )
    conv(torch.randn(2, 2, 20, 11))  # 5 x 3 tiles in each
    assert pieces == [6] * 6
    pieces.clear()
    conv(torch.randn(7, 2, 4, 8))  # 1 x 2 tiles in each: three images at once
    assert pieces == [6] * 3


def test_in_float32_the_points_keep_the_error_small(monkeypatch):
    weight, bias = torch.randn(128, 128, 3, 3) / 34, torch.randn(128)
    x = torch.randn(1, 128, 16, 16).relu()
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)

    def error():
        found = WinogradConv2d(weight, bias)(x)
        return (found - exact).abs().max() / exact.std()

    ours = error()
    assert ours < 2e-5
    monkeypatch.setitem(POINTS, 4, (0, 1, -1, 2, -2))
    assert error() > 1.5 * ours


def test_the_transforms_of_the_data_are_exact_in_float32():
    for matrix in (transforms(4)[0], transforms(4)[2]):
        products = np.kron(matrix, matrix)
        assert np.array_equal(products, products.astype(np.float32))


@pytest.mark.parametrize(("side", "m"), [(14, 5), (7, 4), (28, 4), (15, 5)])
def test_tiles_of_maps_of_a_known_size_are_chosen_for_it(side, m):
    assert WinogradConv2d.best_side(side, torch.float32) == m
    conv = Conv2d(128, 128, 3, padding=1)
    fast = InferenceConv2d(conv, dtype=torch.float32, pack=True, winograd=True, side=side)
    assert fast.winograd.m == m
    x = torch.randn(2, 128, side, side)
    torch.testing.assert_close(fast(x), conv(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_1x1_convolution_behind_is_computed_tile_by_tile(monkeypatch):
    monkeypatch.setattr(winograd, "_TILES", 7)
    conv = Conv2d(128, 128, 3, padding=1, activation=F.relu)
    head = torch.nn.Conv2d(128, 15, 1)
    fast = InferenceConv2d(conv, dtype=torch.float32, pack=True, winograd=True)
    last = InferenceConv2d(head, dtype=torch.float32, pack=True)
    for shape in ((1, 128, 18, 10), (3, 128, 5, 4), (1, 128, 1, 1)):
        x = torch.randn(shape)
        found = fast.followed_by(x, last)
        assert found.shape == (shape[0], 15, *shape[2:])
        torch.testing.assert_close(found, head(conv(x)), rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_error_stays_within_four_times_that_of_the_direct_sum():
    weight = torch.randn(128, 128, 3, 3) / 34
    x = torch.randn(1, 128, 16, 16).relu().bfloat16()
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    weight = weight.bfloat16()
    fast = WinogradConv2d(weight, None)
    assert fast.m == 3
    direct = (F.conv2d(x, weight, padding=1) - exact).norm()
    assert (fast(x) - exact).norm() < 4 * direct
    assert (WinogradConv2d(weight, None, m=4)(x) - exact).norm() > 4 * direct


@pytest.mark.parametrize(
    ("changed", "dtype", "fits"),
    [
        ({}, torch.float32, True),
        ({"in_channels": 256}, torch.float32, True),
        ({}, torch.bfloat16, TILED_BFLOAT16),
        ({"stride": 2}, torch.float32, False),
        ({"dilation": 2, "padding": 2}, torch.float32, False),
        ({"padding": 0}, torch.float32, False),
        ({"kernel_size": 1}, torch.float32, False),
        ({"groups": 2}, torch.float32, False),
        ({"out_channels": 64}, torch.float32, False),
        ({"in_channels": 512}, torch.float32, False),
        ({"in_channels": 192}, torch.float32, False),
    ],
)
def test_it_takes_the_place_of_wide_plain_3x3_convolutions_only(changed, dtype, fits):
    arguments = {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1}
    conv = Conv2d(**{**arguments, **changed})
    assert WinogradConv2d.fits(conv, dtype) is fits
    fast = InferenceConv2d(conv, dtype=dtype, pack=True, winograd=True)
    assert (fast.winograd is not None) is fits
    # a GPU, the compiler and export have ways of their own
    assert InferenceConv2d(conv, dtype=dtype, pack=False, winograd=True).winograd is None


@torch.no_grad()
@pytest.mark.parametrize("activation", [None, F.relu, torch.tanh])
def test_an_inference_convolution_by_tiles_equals_the_direct_one(activation):
    conv = Conv2d(128, 128, 3, padding=1, activation=activation)
    fast = InferenceConv2d(conv, dtype=torch.float32, pack=True, winograd=True)
    assert fast.winograd is not None
    torch.testing.assert_close(fast.weight, conv.weight, rtol=1e-5, atol=1e-5)
    for shape in ((1, 128, 7, 10), (2, 128, 4, 4), (0, 128, 4, 4)):
        x = torch.randn(shape)
        torch.testing.assert_close(fast(x), conv(x), rtol=1e-4, atol=1e-5)
    if activation is None:
        other = torch.randn(2, 128, 4, 4)
        x = torch.randn(2, 128, 4, 4)
        expected = (conv(x) + other).relu()
        torch.testing.assert_close(fast.add_relu(x, other), expected, rtol=1e-4, atol=1e-5)
