"""Filters laid out for oneDNN, again for maps of other sizes where that is faster."""

import pytest
import torch
import torch.nn.functional as F

from deepfuse_d2.kernels import packed_filters
from deepfuse_d2.kernels.capabilities import has_packed
from deepfuse_d2.kernels.packed_filters import PackedFilters, gains_by_packing

pytestmark = pytest.mark.skipif(not has_packed(torch.float32), reason="without oneDNN's filters")

PLACES = 36


def maps(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.parametrize("tiles", [1, 9, 63, 64, 126, 128, 144, 256])
def test_grouped_products_are_right_in_every_layout(tiles):
    weight = torch.randn(PLACES * 16, 16, 1, 1)
    filters = PackedFilters(weight, (0, 0), (1, 1), (1, 1), PLACES)
    x = maps(1, PLACES * 16, tiles, 1)
    expected = F.conv2d(x, weight, groups=PLACES)
    torch.testing.assert_close(filters.convolve(x, None), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(filters.to_dense(), weight)


@torch.no_grad()
def test_numbers_of_tiles_of_one_layout_share_their_filters(monkeypatch):
    layouts = {2: b"small", 3: b"small", 64: b"large", 65: b"large"}
    monkeypatch.setattr(packed_filters, "_layout", lambda *args: layouts[args[-1][2]])
    weight = torch.randn(PLACES * 8, 8, 1, 1)
    filters = PackedFilters(weight, (0, 0), (1, 1), (1, 1), PLACES)
    assert len(filters) == 0
    for tiles in (2, 64, 3, 65, 2):
        x = maps(1, PLACES * 8, tiles, 1)
        expected = F.conv2d(x, weight, groups=PLACES)
        torch.testing.assert_close(filters.convolve(x, None), expected, rtol=1e-5, atol=1e-5)
    assert len(filters) == 2


@torch.no_grad()
def test_a_torch_that_tells_no_layout_gets_one_for_each_number_of_tiles(monkeypatch):
    monkeypatch.setattr(packed_filters, "_layout", lambda *args: b"")
    weight = torch.randn(PLACES * 8, 8, 1, 1)
    filters = PackedFilters(weight, (0, 0), (1, 1), (1, 1), PLACES)
    for tiles in (2, 3, 4, 5, 6):
        x = maps(1, PLACES * 8, tiles, 1)
        expected = F.conv2d(x, weight, groups=PLACES)
        torch.testing.assert_close(filters.convolve(x, None), expected, rtol=1e-5, atol=1e-5)
    assert len(filters) == 3  # the last ones


def test_large_kernels_are_packed_where_one_layout_serves_maps_of_all_sizes(monkeypatch):
    gains_by_packing.cache_clear()
    try:
        monkeypatch.setattr(packed_filters, "_layout", lambda *args: b"one")
        assert gains_by_packing((3, 3), torch.float32)
        gains_by_packing.cache_clear()
        monkeypatch.setattr(packed_filters, "_layout", lambda *args: str(args[-1]).encode())
        assert not gains_by_packing((3, 3), torch.float32)
        assert gains_by_packing((1, 1), torch.float32)
        # where torch tells nothing, by the kind of machine
        gains_by_packing.cache_clear()
        monkeypatch.setattr(packed_filters, "_layout", lambda *args: b"")
        monkeypatch.setattr(packed_filters, "isa", lambda: "avx2")
        assert not gains_by_packing((3, 3), torch.float32)
    finally:
        gains_by_packing.cache_clear()
