"""DeepFuseFPN in all directions, once and repeated: its passes, its starting point, its errors."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN
from detectron2.modeling.backbone import Backbone
from neck_suite import NeckSuite, build
from torch import nn

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.layers import DOWNSAMPLES, MERGES, UNITS, FuseSettings
from deepfuse_d2.modeling import DeepFuseFPN
from deepfuse_d2.modeling.neck.deepfuse_fpn import DIRECTIONS

FEATURES = ["res2", "res3", "res4", "res5"]
CHANNELS = [8, 16, 24, 32]
# (direction, repeats) -> the later passes; the first one always goes down
LATER = {
    ("top_down", 1): [],
    ("top_down", 3): ["down", "down"],
    ("bottom_up", 1): ["up"],
    ("bottom_up", 2): ["up", "up"],
    ("bidirectional", 1): ["up"],
    ("bidirectional", 2): ["up", "down", "up"],
}


class TestBidirectionalTwice(NeckSuite):
    overrides = (
        "MODEL.DEEPFUSE.DIRECTION", "bidirectional", "MODEL.DEEPFUSE.REPEATS", 2,
        "MODEL.DEEPFUSE.UNIT", "dense", "MODEL.DEEPFUSE.MERGE", "weighted_sum",
        "MODEL.DEEPFUSE.DOWNSAMPLE", "conv", "MODEL.DEEPFUSE.UPSAMPLE", "bilinear",
        "MODEL.NECK.NORM", "GN",
    )  # fmt: skip


class TestBottomUp(NeckSuite):
    overrides = ("MODEL.DEEPFUSE.DIRECTION", "bottom_up", "MODEL.DEEPFUSE.UNIT", "separable")


class Given(Backbone):
    """In place of a network: features by name are its "image"."""

    def forward(self, features):
        return features

    def output_shape(self):
        return {
            name: ShapeSpec(channels=channels, stride=2**level)
            for level, (name, channels) in enumerate(zip(FEATURES, CHANNELS, strict=True), 2)
        }


def features(rows=16, columns=24, dtype=torch.float32):
    """Every map has half the size of the one before, rounded up."""
    maps = {}
    for name, channels in zip(FEATURES, CHANNELS, strict=True):
        maps[name] = torch.randn(2, channels, rows, columns, dtype=dtype)
        rows, columns = -(-rows // 2), -(-columns // 2)
    return maps


def deepfuse(settings=FuseSettings(), **arguments):
    return DeepFuseFPN(Given(), FEATURES, 16, settings=settings, **arguments).eval()


@pytest.mark.parametrize(
    ("passes", "merge", "downsample", "unit", "depth"),
    [
        *itertools.product(LATER, MERGES, ["max_pool"], ["bottleneck"], [1]),
        *itertools.product(LATER, ["sum"], DOWNSAMPLES, ["residual"], [0, 2]),
        *itertools.product(LATER, ["gated"], ["conv"], UNITS, [1]),
    ],
)
def test_every_direction_and_repetition_starts_as_detectron2s_fpn_and_leaves_it(
    passes, merge, downsample, unit, depth
):
    fpn = FPN(Given(), FEATURES, 16).eval()
    direction, repeats = passes
    settings = FuseSettings(merge=merge, downsample=downsample, unit=unit, depth=depth)
    neck = deepfuse(settings, direction=direction, repeats=repeats)
    missing, unexpected = neck.load_state_dict(fpn.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("fuse") for name in missing)
    maps = features()
    expected, found = fpn(maps), neck(maps)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name

    added = [p for name, p in neck.named_parameters() if name.startswith("fuse")]
    if not added:
        assert (direction, repeats, depth) == ("top_down", 1, 0)
        return
    sum((p * torch.randn_like(p)).mean() for p in found.values()).backward()
    torch.optim.SGD(added, lr=1.0).step()
    assert not torch.equal(neck(maps)["p3"], expected["p3"])


@pytest.mark.parametrize("passes", LATER)
def test_equals_its_passes_written_out(passes):
    direction, repeats = passes
    settings = FuseSettings(merge="sum", zero_init=False)
    neck = deepfuse(settings, direction=direction, repeats=repeats).double()
    maps = features(11, 17, torch.float64)

    level = {i: getattr(neck, f"fpn_lateral{i}")(maps[f"res{i}"]) for i in (2, 3, 4, 5)}
    for i in (4, 3, 2):
        above = F.interpolate(level[i + 1], size=level[i].shape[-2:], mode="nearest")
        level[i] = level[i] + above
        if direction != "bottom_up":
            # fuse, then go deep
            fuse = getattr(neck, f"fuse{i}")
            level[i] = level[i] + fuse.scale * fuse.deepen(level[i])
    for number, order in enumerate(LATER[passes], 2):
        for i in (4, 3, 2) if order == "down" else (3, 4, 5):
            if order == "down":
                source = F.interpolate(level[i + 1], size=level[i].shape[-2:], mode="nearest")
            else:
                source = F.max_pool2d(level[i - 1], 2, ceil_mode=True)
            fuse = getattr(neck, f"fuse{i}_pass{number}")
            level[i] = level[i] + fuse.scale * fuse.deepen(level[i] + source)
    found = neck(maps)
    for i in (2, 3, 4, 5):
        expected = getattr(neck, f"fpn_output{i}")(level[i])
        torch.testing.assert_close(found[f"p{i}"], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_detail_of_the_finest_map_reaches_the_coarsest_level_only_on_the_way_up(direction):
    neck = deepfuse(FuseSettings(zero_init=False), direction=direction)
    maps = features()
    changed = {**maps, "res2": maps["res2"] + 1}
    before, after = neck(maps), neck(changed)
    assert not torch.equal(before["p2"], after["p2"])
    assert torch.equal(before["p5"], after["p5"]) == (direction == "top_down")
    # and meaning of the coarsest map reaches the finest level in every direction
    changed = {**maps, "res5": maps["res5"] + 1}
    assert not torch.equal(neck(changed)["p2"], before["p2"])


def test_the_way_down_before_bottom_up_is_the_plain_sum_without_parameters():
    neck = deepfuse(FuseSettings(merge="concat", depth=2), direction="bottom_up")
    assert not list(neck.fuse2.parameters())
    assert list(neck.fuse5_pass2.parameters())
    assert not hasattr(neck, "fuse2_pass2")


def test_with_bilinear_upsampling_it_starts_as_the_fpn_with_bilinear_upsampling():
    neck = deepfuse(FuseSettings(upsample="bilinear"), direction="bidirectional")
    maps = features()
    level = neck.fpn_lateral5(maps["res5"])
    for i in (4, 3, 2):
        above = F.interpolate(level, scale_factor=2.0, mode="bilinear", align_corners=False)
        level = getattr(neck, f"fpn_lateral{i}")(maps[f"res{i}"]) + above
    assert torch.equal(neck(maps)["p2"], neck.fpn_output2(level))


def test_strided_convolutions_of_the_way_up_have_the_norm_of_the_neck():
    neck = deepfuse(FuseSettings(downsample="conv"), direction="bidirectional", norm="BN")
    norms = [
        name for name, m in neck.named_modules()
        if isinstance(m, nn.BatchNorm2d) and name.startswith("fuse")
    ]  # fmt: skip
    assert norms == [f"fuse{i}_pass2.resample.0.down.convs.0.norm" for i in (3, 4, 5)]


def test_drop_path_reaches_every_fusion_that_has_a_deep_branch():
    neck = deepfuse(FuseSettings(depth=0, drop_path=0.3), direction="bidirectional")
    rates = {
        name.removesuffix(".drop_path"): m.p
        for name, m in neck.named_modules()
        if name.endswith("drop_path")
    }
    assert rates == {
        "fuse4": 0.0, "fuse3": 0.0, "fuse2": 0.0,
        "fuse3_pass2": 0.3, "fuse4_pass2": 0.3, "fuse5_pass2": 0.3,
    }  # fmt: skip


def test_the_keys_of_the_config_reach_the_fusions():
    neck = build(
        "MODEL.DEEPFUSE.DIRECTION", "bidirectional", "MODEL.DEEPFUSE.REPEATS", 2,
        "MODEL.DEEPFUSE.MERGE", "gated", "MODEL.DEEPFUSE.UNIT", "separable",
        "MODEL.DEEPFUSE.DEPTH", 3, "MODEL.DEEPFUSE.NORM", "BN",
        "MODEL.DEEPFUSE.UPSAMPLE", "bilinear", "MODEL.DEEPFUSE.DOWNSAMPLE", "avg_pool",
        "MODEL.DEEPFUSE.DROP_PATH", 0.25, "MODEL.DEEPFUSE.ZERO_INIT", False,
        # for aligning convolutions, which the neck has none of
        "MODEL.DEEPFUSE.ALIGN_NORM", "GN",
    )  # fmt: skip
    fuse = neck.fuse5_pass4
    assert type(fuse.merge) is MERGES["gated"]
    assert [type(unit) for unit in fuse.deepen.units] == 3 * [UNITS["separable"]]
    assert isinstance(fuse.deepen.units[0].depthwise.norm, nn.BatchNorm2d)
    assert fuse.resample[0].mode == "bilinear"
    assert isinstance(fuse.resample[0].down, nn.AvgPool2d)
    assert fuse.drop_path.p == 0.25
    assert fuse.scale.min() == 1


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("passes", [("top_down", 1), ("bidirectional", 2)])
def test_torch_export_and_a_trace_give_the_same_pyramid(passes):
    direction, repeats = passes
    neck = deepfuse(FuseSettings(zero_init=False), direction=direction, repeats=repeats)
    maps, others = features(), features(11, 18)
    with torch.no_grad():
        expected = neck(maps)
        exported = torch.export.export(neck, (maps,)).module()(maps)
        traced = torch.jit.trace(neck, (maps,), strict=False)
        for name in expected:
            torch.testing.assert_close(exported[name], expected[name])
        expected, found = neck(others), traced(others)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.DEEPFUSE.DIRECTION", "left"), r'direction "left".*DEEPFUSE.DIRECTION\).*top_down'),
        (("MODEL.DEEPFUSE.REPEATS", 0), r"MODEL.DEEPFUSE.REPEATS\) are 0; they must be 1 or more"),
        (("MODEL.DEEPFUSE.DEPTH", 0, "MODEL.DEEPFUSE.DROP_PATH", 0.1), "no deep branch to drop"),
        (("MODEL.DEEPFUSE.DEPTH", 0, "MODEL.DEEPFUSE.NORM", "BN"), "normalises inside the units"),
        (("MODEL.DEEPFUSE.UPSAMPLE", "cubic"), 'upsample "cubic" is unknown'),
        (("MODEL.DEEPFUSE.DOWNSAMPLE", "cubic"), 'downsample "cubic" is unknown'),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(overrides, message):
    for builder in ("build_neck_backbone", "build_resnet_deepfuse_fpn_backbone"):
        with pytest.raises(ConfigError, match=message):
            build("MODEL.BACKBONE.NAME", builder, *overrides)
