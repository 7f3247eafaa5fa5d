"""Regions are pooled in one copy, as detectron2's own pooler gives them."""

import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.structures import Boxes
from torch import nn

from deepfuse_d2.inference.optimize.pooler import InferencePooler, pool_for_inference
from deepfuse_d2.kernels.roi_align import RowROIAlign

SCALES = (1 / 4, 1 / 8, 1 / 16)


def make_poolers(dtype=torch.float32, scales=SCALES):
    """detectron2's pooler, and the same one for inference."""
    stock = ROIPooler(7, scales, sampling_ratio=0, pooler_type="ROIAlignV2")
    ours = copy.deepcopy(stock)
    for level in ours.level_poolers:
        level.__class__ = RowROIAlign
    ours.__class__, ours.dtype = InferencePooler, dtype
    return stock, ours


def make_maps(channels=16, images=2, dtype=torch.float32):
    torch.manual_seed(0)
    maps = [torch.randn(images, channels, 64 >> i, 96 >> i) for i in range(len(SCALES))]
    return [x.to(dtype).contiguous(memory_format=torch.channels_last) for x in maps]


def make_boxes(counts, largest=250.0):
    torch.manual_seed(1)
    lists = []
    for count in counts:
        corner = torch.rand(count, 2) * 120
        lists.append(Boxes(torch.cat([corner, corner + 4 + torch.rand(count, 2) * largest], 1)))
    return lists


@pytest.mark.parametrize(
    ("counts", "largest"), [((40, 23), 250.0), ((0, 5), 250.0), ((30, 30), 8.0), ((0, 0), 8.0)],
    ids=["all levels", "an image without boxes", "one level alone", "no boxes"],
)  # fmt: skip
def test_it_gives_what_detectron2_gives(counts, largest):
    stock, ours = make_poolers()
    maps, boxes = make_maps(), make_boxes(counts, largest)
    expected, found = stock(maps, boxes), ours(maps, boxes)
    assert found.shape == expected.shape == (sum(counts), 16, 7, 7)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_channels_are_innermost_so_that_a_box_head_flattens_without_a_copy():
    _, ours = make_poolers()
    found = ours(make_maps(), make_boxes((40, 23)))
    assert found.permute(0, 2, 3, 1).is_contiguous()


def test_maps_in_a_lower_precision_are_summed_as_they_are_and_boxes_keep_their_digits():
    stock, ours = make_poolers(torch.bfloat16)
    maps, boxes = make_maps(dtype=torch.bfloat16), make_boxes((40, 23))
    exact = stock([x.double().float() for x in maps], boxes)
    found = ours(maps, boxes)
    assert found.dtype is torch.bfloat16
    # what rounding the result alone would cost, and as much again for the weights of the sum
    rounding = (exact.bfloat16().float() - exact).std()
    assert (found.float() - exact).std() < 2.5 * rounding


def test_a_graph_that_is_recorded_is_detectron2s():
    stock, ours = make_poolers()
    maps, boxes = make_maps(), make_boxes((6, 5))

    def pool(pooler):
        return lambda a, b, c, x, y: pooler([a, b, c], [Boxes(x), Boxes(y)])

    example = (*maps, boxes[0].tensor, boxes[1].tensor)
    traced = torch.jit.trace(pool(ours), example)
    others = make_boxes((3, 9))
    found = traced(*maps, others[0].tensor, others[1].tensor)
    torch.testing.assert_close(found, stock(maps, others), rtol=1e-5, atol=1e-5)


def test_one_level_needs_no_assignment():
    stock, ours = make_poolers(scales=(1 / 4,))
    maps, boxes = make_maps()[:1], make_boxes((6, 5))
    torch.testing.assert_close(ours(maps, boxes), stock(maps, boxes), rtol=1e-5, atol=1e-5)


class OwnBoxHead(FastRCNNConvFCHead):
    """Somebody's, which may compute what does not cast."""


@pytest.mark.parametrize(("kind", "count"), [(FastRCNNConvFCHead, 1), (OwnBoxHead, 0)])
def test_a_head_of_another_class_gets_what_detectron2_gives(kind, count):
    heads = nn.Module()
    heads.box_pooler, _ = make_poolers()
    for level in heads.box_pooler.level_poolers:
        level.__class__ = RowROIAlign
    heads.box_head = kind(ShapeSpec(channels=16, height=7, width=7), conv_dims=[], fc_dims=[8])
    assert pool_for_inference(nn.Sequential(heads), torch.bfloat16) == count
    assert isinstance(heads.box_pooler, InferencePooler) == bool(count)
