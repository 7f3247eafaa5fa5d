"""Pooling from a table equals detectron2's poolers."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from deepfuse_d2.kernels import roi_pool
from deepfuse_d2.kernels.roi_pool import TableROIPooler


def random_boxes(count, width, height, generator):
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([width, height])
    # sides of all orders of magnitude
    sides = torch.rand(count, 1, 2, generator=generator) ** 3 * torch.tensor([width, height])
    first = corners[:, :1]
    return Boxes(torch.cat([first, first + sides], dim=1).flatten(1))


def pooler(scales, size=7, kind="ROIAlignV2"):
    return ROIPooler(
        output_size=size, scales=scales, sampling_ratio=0, pooler_type=kind, canonical_box_size=56
    )


@pytest.mark.parametrize("kind", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.parametrize(
    ("scales", "size"), [((1 / 4, 1 / 8, 1 / 16), 7), ((1 / 4, 1 / 8), (3, 5)), ((1 / 16,), 14)]
)
def test_pooled_features_are_those_of_detectron2(scales, size, kind):
    generator = torch.Generator().manual_seed(1)
    reference = pooler(scales, size, kind)
    if isinstance(size, tuple) and len(scales) > 1:
        # detectron2's pooler takes several levels into squares only
        reference = pooler(scales, 5, kind)
    maps = [
        torch.randn(2, 8, round(160 * s), round(256 * s) + 1, generator=generator) for s in scales
    ]
    boxes = [random_boxes(40, 256, 160, generator), random_boxes(30, 256, 160, generator)]
    expected = reference(maps, boxes)
    table = TableROIPooler(reference)
    channels_last = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    for given in (maps, channels_last):
        found = table(given, boxes)
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_boxes_outside_empty_inverted_and_huge_are_pooled_as_by_detectron2():
    reference = pooler((1 / 4, 1 / 8))
    maps = [torch.randn(1, 4, 16, 24), torch.randn(1, 4, 8, 12)]
    boxes = [
        Boxes(
            torch.tensor(
                [
                    [-30.0, -20, 20, 10],
                    [80, 50, 200, 190],
                    [300, 300, 310, 330],
                    [-90, -90, -50, -60],
                    [10, 10, 10, 10],
                    [10, 10, 10, 40],
                    [0, 0, 96, 64],
                    [-500, -500, 900, 900],
                    [95.9, 63.9, 96, 64],
                ]
            )
        )
    ]
    torch.testing.assert_close(
        TableROIPooler(reference)(maps, boxes), reference(maps, boxes), rtol=1e-4, atol=1e-5
    )


def test_no_boxes_and_images_without_boxes_are_fine():
    reference = pooler((1 / 4, 1 / 8))
    maps = [torch.randn(2, 4, 16, 24), torch.randn(2, 4, 8, 12)]
    none, one = Boxes(torch.zeros(0, 4)), Boxes(torch.tensor([[3.0, 4, 30, 40]]))
    table = TableROIPooler(reference)
    assert table(maps, [none, none]).shape == (0, 4, 7, 7)
    torch.testing.assert_close(table(maps, [none, one]), reference(maps, [none, one]))


def test_many_boxes_go_in_pieces(monkeypatch):
    monkeypatch.setattr(roi_pool, "_MAX_ENTRIES", 1000)
    reference = pooler((1 / 4, 1 / 8))
    maps = [torch.randn(1, 4, 32, 48), torch.randn(1, 4, 16, 24)]
    boxes = [random_boxes(50, 192, 128, torch.Generator().manual_seed(2))]
    torch.testing.assert_close(
        TableROIPooler(reference)(maps, boxes), reference(maps, boxes), rtol=1e-4, atol=1e-5
    )


def test_it_takes_the_place_of_adaptive_roi_align_only():
    assert TableROIPooler.fits(pooler((1 / 4,)))
    assert not TableROIPooler.fits(ROIPooler(7, (1 / 4,), 2, "ROIAlignV2"))
    assert not TableROIPooler.fits(ROIPooler(7, (1 / 4,), 0, "ROIPool"))
    assert not TableROIPooler.fits(torch.nn.Identity())
