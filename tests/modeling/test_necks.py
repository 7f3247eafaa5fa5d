"""The suite of every neck, and what is particular to DeepFuseFPN."""

import itertools

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, build_model
from detectron2.modeling.backbone import build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from neck_suite import NeckSuite, build, small_config

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.errors import ConfigError, UserError
from deepfuse_d2.layers import MERGES, UNITS, FuseSettings
from deepfuse_d2.modeling import NECK_REGISTRY, DeepFuseFPN


class TestDeepFuseFPN(NeckSuite):
    overrides = ("MODEL.NECK.NAME", "DeepFuseFPN")


def test_a_fault_in_a_neck_of_another_project_keeps_its_trace():
    def faulty(cfg, bottom_up):
        return int("not a number")

    NECK_REGISTRY._obj_map["FaultyNeck"] = faulty
    try:
        with pytest.raises(ValueError, match="invalid literal for int") as caught:
            build_model(small_config("MODEL.NECK.NAME", "FaultyNeck"))
    finally:
        del NECK_REGISTRY._obj_map["FaultyNeck"]
    assert not isinstance(caught.value, UserError)
    with pytest.raises(ConfigError, match="DeepFuse unit"):
        build_model(small_config("MODEL.DEEPFUSE.UNIT", "residue"))


class TestDeepFuseFPNWithEverything(NeckSuite):
    overrides = (
        "MODEL.NECK.NAME", "DeepFuseFPN", "MODEL.NECK.NORM", "GN", "MODEL.DEEPFUSE.NORM", "GN",
        "MODEL.DEEPFUSE.MERGE", "gated", "MODEL.DEEPFUSE.UNIT", "residual",
        "MODEL.DEEPFUSE.DEPTH", 2, "MODEL.DEEPFUSE.ZERO_INIT", False,
    )  # fmt: skip


def fpn_and_bottom_up():
    bottom_up = build_resnet_backbone(small_config(), ShapeSpec(channels=3))
    return FPN(bottom_up, ["res2", "res3", "res4", "res5"], 32, top_block=LastLevelMaxPool())


def deepfuse(bottom_up, **settings):
    return DeepFuseFPN(
        bottom_up,
        ["res2", "res3", "res4", "res5"],
        32,
        top_block=LastLevelMaxPool(),
        settings=FuseSettings(**settings),
    )


def test_depth_0_is_detectron2s_fpn_bit_for_bit_with_the_same_weights():
    fpn = fpn_and_bottom_up().eval()
    ours = deepfuse(
        build_resnet_backbone(small_config(), ShapeSpec(channels=3)), merge="sum", depth=0
    ).eval()
    ours.load_state_dict(fpn.state_dict(), strict=True)
    image = torch.randn(2, 3, 64, 128)
    expected, found = fpn(image), ours(image)
    assert list(expected) == list(found)
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


@pytest.mark.parametrize(("merge", "unit", "depth"), list(itertools.product(MERGES, UNITS, (1, 3))))
def test_zero_init_starts_as_detectron2s_fpn_and_leaves_it_with_the_first_step(merge, unit, depth):
    fpn = fpn_and_bottom_up().eval()
    ours = deepfuse(
        build_resnet_backbone(small_config(), ShapeSpec(channels=3)),
        merge=merge, unit=unit, depth=depth,
    ).eval()  # fmt: skip
    missing, unexpected = ours.load_state_dict(fpn.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("fuse") for name in missing)
    image = torch.randn(1, 3, 64, 64)
    expected, found = fpn(image), ours(image)
    for name in expected:
        assert torch.equal(expected[name], found[name]), name

    # only what the family adds takes the step
    added = [p for name, p in ours.named_parameters() if name.startswith("fuse")]
    optimizer = torch.optim.SGD(added, lr=0.1)
    found["p2"].square().mean().backward()
    optimizer.step()
    assert not torch.equal(ours(image)["p2"], expected["p2"])


def test_registered_fpn_is_detectron2s_own():
    assert isinstance(build("MODEL.NECK.NAME", "FPN"), FPN)


def test_the_short_builder_gives_resnet_with_deepfuse_fpn_whatever_the_neck_says():
    cfg = small_config(
        "MODEL.BACKBONE.NAME", "build_resnet_deepfuse_fpn_backbone", "MODEL.NECK.NAME", "FPN"
    )
    model = build_model(cfg_with_heads(cfg))
    assert isinstance(model.backbone, DeepFuseFPN)


def cfg_with_heads(cfg):
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    return cfg


def test_size_divisibility_is_the_stride_of_the_coarsest_fused_level():
    assert build("MODEL.NECK.NAME", "DeepFuseFPN").size_divisibility == 32
    shorter = build(
        "MODEL.NECK.NAME", "DeepFuseFPN", "MODEL.NECK.IN_FEATURES", ["res3", "res4"],
    )  # fmt: skip
    assert shorter.size_divisibility == 16
    assert list(shorter(torch.randn(1, 3, 64, 64))) == ["p3", "p4", "p5"]


def test_adding_the_config_twice_changes_nothing():
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.DEEPFUSE.DEPTH = 7
    add_deepfuse_config(cfg)
    assert cfg.MODEL.DEEPFUSE.DEPTH == 7


def test_adding_the_config_changes_no_default_of_detectron2():
    ours, plain = get_cfg(), get_cfg()
    add_deepfuse_config(ours)

    def check(a, b, path=""):
        for key, value in b.items():
            if hasattr(value, "items"):
                check(a[key], value, f"{path}{key}.")
            else:
                assert a[key] == value, path + key

    check(ours, plain)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.NECK.NAME", "NFN", r'MODEL.NECK.NAME = "NFN" is unknown.*DeepFuseFPN, FPN'),
        ("MODEL.NECK.BOTTOM_UP", "resnet", r'MODEL.NECK.BOTTOM_UP = "resnet".*build_resnet_backb'),
        ("MODEL.NECK.TOP_BLOCK", "p8", r'TOP_BLOCK = "p8" is unknown.*"maxpool", "p6p7", .*"none"'),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(key, value, message):
    with pytest.raises(ConfigError, match=message):
        build(key, value)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["res2", "res9"], "are not among what the bottom-up network gives"),
        (["res2", "res4"], r"strides \[4, 16\]; each must be"),
        (["res3", "res2"], r"strides \[8, 4\]; each must be"),
        ([], "are not among"),
    ],
)
def test_features_that_make_no_pyramid_are_refused(features, message):
    bottom_up = build_resnet_backbone(small_config(), ShapeSpec(channels=3))
    with pytest.raises(ValueError, match=message):
        DeepFuseFPN(bottom_up, features, 32)
