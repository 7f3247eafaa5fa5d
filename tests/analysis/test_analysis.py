"""Multiply-adds, activations and parameters of parts, against counts worked by hand."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.analysis import Cost, analyze
from deepfuse_d2.analysis.counting import count
from deepfuse_d2.errors import ConfigError

SIZE = (64, 96)


def build(*overrides):
    """A ResNet-18 with a narrow neck under a small head, by default Mask R-CNN for 8 classes."""
    return build_model(config(*overrides))


def config(*overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.merge_from_list([
        "MODEL.DEVICE", "cpu",
        "MODEL.MASK_ON", True,
        "MODEL.BACKBONE.NAME", "build_neck_backbone",
        "MODEL.NECK.NAME", "FPN",
        "MODEL.NECK.OUT_CHANNELS", 32,
        "MODEL.RESNETS.DEPTH", 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
        "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
        "MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]],
        "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
        "MODEL.ROI_HEADS.NUM_CLASSES", 8,
        "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC", 2,
        "MODEL.ROI_BOX_HEAD.FC_DIM", 16,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7,
        "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.NUM_CONV", 1,
        "MODEL.ROI_MASK_HEAD.CONV_DIM", 24,
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32,
        *overrides,
    ])  # fmt: skip
    return cfg


def counted(module, *inputs):
    return count([module], module, inputs)[0][""]


@pytest.mark.parametrize(
    ("module", "shape", "multiply_adds", "activations"),
    [
        # rows * columns * in * out * kernel
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 10 * 12 * 3 * 8 * 9, 8 * 10 * 12),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), (2, 4, 9, 9), 2 * 25 * 4 * 8 * 9, 2 * 8 * 25),
        (nn.Conv2d(6, 6, 5, padding=2, groups=6), (1, 6, 7, 7), 49 * 6 * 25, 6 * 49),
        # each input pixel meets the whole kernel
        (nn.ConvTranspose2d(4, 6, 2, 2), (1, 4, 5, 5), 25 * 4 * 6 * 4, 6 * 100),
        (nn.Linear(7, 3), (5, 7), 5 * 7 * 3, 15),
        # what is no matrix product counts nothing
        (nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.SiLU()), (1, 4, 6, 6), 0, 0),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 4, 6, 6), 0, 0),
    ],
)  # fmt: skip
def test_counts_equal_those_worked_by_hand(module, shape, multiply_adds, activations):
    counts = counted(module.eval(), torch.zeros(shape))
    assert counts["multiply_adds"] == multiply_adds
    assert counts["activations"] == activations


def test_attention_counts_both_of_its_products():
    class Attention(nn.Module):
        def forward(self, query, key, value):
            return F.scaled_dot_product_attention(query, key, value)

    shapes = (1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 3)
    for device in ("cpu", "meta"):  # which resolve it into different operators
        counts = counted(Attention(), *(torch.zeros(shape, device=device) for shape in shapes))
        assert counts["multiply_adds"] == 2 * (5 * 7 * 4 + 5 * 7 * 3)
        assert counts["activations"] == 2 * 5 * 3


def test_work_counts_for_every_module_that_is_called_around_it():
    inner = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3))
    twice = nn.ModuleDict({"inner": inner, "unused": nn.Conv2d(2, 2, 1)})
    counts, _ = count([twice], lambda x: inner(x) + inner(x), [torch.zeros(1, 2, 5, 6)])
    first, second = 30 * 2 * 4, 12 * 4 * 4 * 9
    works = {path: counter["multiply_adds"] for path, counter in counts.items()}
    assert works == {
        "": 2 * (first + second),
        "0.inner": 2 * (first + second),
        "0.inner.0": 2 * first,
        "0.inner.2": 2 * second,
    }
    assert not any(module._forward_hooks for module in twice.modules())
    assert not any(module._forward_pre_hooks for module in twice.modules())


def test_an_operator_that_may_hold_products_and_is_not_known_is_told():
    class Distances(nn.Module):
        def forward(self, x):
            return torch.cdist(x.relu(), x) + 1

    _, unsupported = count([Distances()], Distances(), [torch.zeros(4, 3)])
    assert dict(unsupported) == {"aten::_cdist_forward": 1}


def test_the_parts_of_mask_rcnn_equal_those_worked_by_hand():
    model = build()
    analysis = analyze(model, SIZE, proposals=10, detections=3)
    assert list(analysis.parts) == [
        "bottom-up", "neck", "proposal generator", "box head", "mask head",
    ]  # fmt: skip
    assert analysis.size == SIZE
    assert not analysis.unsupported

    pixels = [16 * 24, 8 * 12, 4 * 6, 2 * 3, 1 * 2]  # p2 .. p6
    neck = analysis.parts["neck"]
    laterals = sum(n * c * 32 for n, c in zip(pixels, (64, 128, 256, 512), strict=False))
    outputs = sum(n * 32 * 32 * 9 for n in pixels[:4])
    assert neck.multiply_adds == laterals + outputs
    assert neck.activations == 2 * 32 * sum(pixels[:4])
    assert neck.parameters == 32 * (64 + 128 + 256 + 512) + 4 * 32 * 32 * 9 + 2 * 4 * 32

    # a 3x3 convolution, 3 objectness scores and 3 x 4 deltas
    rpn = analysis.parts["proposal generator"]
    assert rpn.multiply_adds == sum(pixels) * (32 * 32 * 9 + 32 * 3 + 32 * 12)
    assert rpn.activations == sum(pixels) * (32 + 3 + 12)

    box = analysis.parts["box head"]
    assert box.multiply_adds == 10 * (32 * 49 * 16 + 16 * 16 + 16 * 9 + 16 * 32)
    assert box.activations == 10 * (16 + 16 + 9 + 32)

    mask = analysis.parts["mask head"]
    conv, deconv, last = 196 * 32 * 24 * 9, 196 * 24 * 24 * 4, 784 * 24 * 8
    assert mask.multiply_adds == 3 * (conv + deconv + last)
    assert mask.activations == 3 * (196 * 24 + 784 * 24 + 784 * 8)
    assert mask.parameters == (32 * 24 * 9 + 24) + (24 * 24 * 4 + 24) + (24 * 8 + 8)


def test_of_the_bottom_up_network_the_frozen_part_is_not_trained():
    part = analyze(build(), SIZE).parts["bottom-up"]
    stem, res2 = 3 * 64 * 49, 4 * 64 * 64 * 9  # FREEZE_AT 2
    assert part.parameters - part.trained == stem + res2
    pixels = {"stem": 32 * 48, "res2": 16 * 24, "res3": 8 * 12, "res4": 4 * 6, "res5": 2 * 3}
    expected = pixels["stem"] * stem + pixels["res2"] * res2
    for name, width in (("res3", 128), ("res4", 256), ("res5", 512)):
        # its first convolution and the shortcut come from half the width
        kernel = width // 2 * width * (9 + 1) + 3 * width * width * 9
        expected += pixels[name] * kernel
    assert part.multiply_adds == expected


def test_figures_are_linear_in_proposals_and_detections_and_the_rest_stays():
    model = build()
    few, many = (analyze(model, SIZE, proposals=n, detections=2 * n).parts for n in (4, 12))
    for name in ("box head", "mask head"):
        assert many[name].multiply_adds == 3 * few[name].multiply_adds
        assert many[name].activations == 3 * few[name].activations
    for name in ("bottom-up", "neck", "proposal generator"):
        assert many[name] == few[name]


def test_the_total_is_the_sum_and_has_all_parameters_once():
    model = build()
    total = analyze(model, SIZE).total
    assert total.parameters == sum(p.numel() for p in model.parameters())
    assert total.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert Cost(1, 2, 3, 4) + Cost(10, 20, 30, 40) == Cost(11, 22, 33, 44)


def test_the_model_is_left_as_it_was():
    model = build().train()
    model.backbone.bottom_up.eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    analyze(model, SIZE)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


CASCADE = [
    "MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True,
]  # fmt: skip
C4 = [
    "MODEL.BACKBONE.NAME", "build_resnet_backbone",
    "MODEL.RESNETS.DEPTH", 50,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP", 4,
    "MODEL.RESNETS.OUT_FEATURES", ["res4"],
    "MODEL.RPN.IN_FEATURES", ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64]],
    "MODEL.ROI_HEADS.NAME", "Res5ROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES", ["res4"],
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14,
    "MODEL.ROI_MASK_HEAD.NUM_CONV", 0,
]  # fmt: skip
RETINANET = [
    "MODEL.META_ARCHITECTURE", "RetinaNet",
    "MODEL.NECK.TOP_BLOCK", "p6p7",
    "MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.RETINANET.NUM_CONVS", 1,
]  # fmt: skip
PANOPTIC = ["MODEL.META_ARCHITECTURE", "PanopticFPN"]
KEYPOINTS = [
    "MODEL.KEYPOINT_ON", True, "MODEL.MASK_ON", False, "MODEL.ROI_HEADS.NUM_CLASSES", 1,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16],
]  # fmt: skip
SEMANTIC = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
FUSION = ["MODEL.META_ARCHITECTURE", "FusionSemanticSegmentor"]
GCN = [
    *FUSION,
    "MODEL.BACKBONE.NAME", "build_resnet_backbone",
    "MODEL.SEM_SEG_HEAD.NAME", "GCNHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3", "res4", "res5"],
]  # fmt: skip
RCNN = ["bottom-up", "neck", "proposal generator", "box head"]


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (CASCADE, [*RCNN, "mask head"]),
        (C4, ["bottom-up", "proposal generator", "box head", "mask head"]),
        (KEYPOINTS, [*RCNN, "keypoint head"]),
        (PANOPTIC, [*RCNN, "mask head", "semantic head"]),
        (RETINANET, ["bottom-up", "neck", "dense head"]),
        (SEMANTIC, ["bottom-up", "neck", "semantic head"]),
        (FUSION, ["bottom-up", "neck", "semantic head"]),
        (GCN, ["bottom-up", "semantic head"]),
        (["MODEL.NECK.NAME", "DeepFuseFPN"], [*RCNN, "mask head"]),
    ],
)
def test_every_meta_architecture_has_its_parts(overrides, parts):
    model = build(*overrides)
    analysis = analyze(model, SIZE, proposals=2, detections=1)
    assert list(analysis.parts) == parts
    assert analysis.total.parameters == sum(p.numel() for p in model.parameters())
    assert all(part.multiply_adds > 0 and part.activations > 0 for part in analysis.parts.values())
    assert not analysis.unsupported


@pytest.mark.parametrize("overrides", [[], C4, RETINANET, PANOPTIC, GCN])
def test_a_model_without_memory_costs_what_a_real_one_does(overrides):
    with torch.device("meta"):
        model = build_model(config(*overrides, "MODEL.DEVICE", "meta"))
    analysis = analyze(model, SIZE, proposals=4, detections=2)
    expected = analyze(build(*overrides), SIZE, proposals=4, detections=2)
    assert (analysis.parts, analysis.size) == (expected.parts, expected.size)
    assert not analysis.unsupported


def test_a_cascade_runs_every_stage_on_every_proposal():
    single = analyze(build("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True), SIZE)
    cascade = analyze(build(*CASCADE), SIZE)
    ours, theirs = (x.parts["box head"] for x in (cascade, single))
    assert ours.multiply_adds == 3 * theirs.multiply_adds
    assert ours.parameters == 3 * theirs.parameters


def test_the_heads_of_a_c4_network_share_a_stage_that_each_runs():
    parts = analyze(build(*C4), SIZE, proposals=1, detections=1).parts
    # res5: 7 x 7; blocks 64 -> 32 -> 32 -> 128, the shortcut 64 -> 128, then 128 -> 32 -> 32 -> 128
    first = 49 * (64 * 32 + 32 * 32 * 9 + 32 * 128 + 64 * 128)
    others = 2 * 49 * (128 * 32 + 32 * 32 * 9 + 32 * 128)
    res5 = first + others
    assert parts["box head"].multiply_adds == res5 + 128 * 9 + 128 * 32
    deconv, last = 49 * 128 * 24 * 4, 196 * 24 * 8
    assert parts["mask head"].multiply_adds == res5 + deconv + last
    assert parts["mask head"].parameters == (128 * 24 * 4 + 24) + (24 * 8 + 8)


def test_an_image_is_padded_as_the_model_pads_it():
    analysis = analyze(build(), (50, 70))
    assert analysis.size == (64, 96)
    assert analysis.parts == analyze(build(), (64, 96)).parts


def test_a_head_of_another_kind_is_told_with_its_parameters():
    class Another(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(5))

    model = build()
    model.roi_heads.mask_head = Another()
    model.classifier = nn.Linear(3, 2)
    analysis = analyze(model, SIZE)
    assert analysis.unsupported == {"Another": 1}
    assert analysis.parts["mask head"] == Cost(5, 5)
    assert analysis.parts["other"] == Cost(8, 8)


def test_mistakes_are_answered_by_one_message():
    with pytest.raises(ConfigError, match="Linear has no backbone; its parts are not known here"):
        analyze(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match=r"proposals = 0, .* expected numbers of 1 and more"):
        analyze(build(), SIZE, proposals=0)
