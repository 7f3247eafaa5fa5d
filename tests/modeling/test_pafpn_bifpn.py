"""PAFPN and BiFPN: the suite of every neck, and the published formulas in plain loops."""

import pytest
import torch
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from neck_suite import NeckSuite, build
from plain_necks import (
    CHANNELS,
    IMAGE,
    SIZES,
    GivenMaps,
    layer,
    plain_conv,
    plain_fpn,
    plain_max_down,
    plain_up,
    randomised,
)
from torch import nn

from deepfuse_d2.layers import FuseSettings
from deepfuse_d2.modeling import DeepFuseFPN
from deepfuse_d2.modeling.neck import PAFPN, BiFPN


class TestPAFPN(NeckSuite):
    overrides = ("MODEL.NECK.NAME", "PAFPN")


class TestBiFPN(NeckSuite):
    # p6 of the suite's images is one pixel, which has no batch statistics
    overrides = ("MODEL.NECK.NAME", "BiFPN", "MODEL.BIFPN.NORM", "FrozenBN")


class TestBiFPNWithoutNorm(NeckSuite):
    overrides = ("MODEL.NECK.NAME", "BiFPN", "MODEL.BIFPN.NORM", "", "MODEL.BIFPN.REPEATS", 1)


@pytest.mark.parametrize("norm", ["", "BN"])
@pytest.mark.parametrize("sizes", SIZES)
def test_pafpn_is_an_fpn_and_the_published_path_up(sizes, norm):
    bottom_up = GivenMaps(SIZES[sizes], CHANNELS)
    neck = randomised(
        PAFPN(bottom_up, list(bottom_up.maps), 4, norm=norm, top_block=LastLevelMaxPool())
    )
    state = neck.state_dict()

    p = plain_fpn(state, bottom_up.maps, SIZES[sizes])
    expected = {"p2": p[2]}
    for level in (3, 4, 5):
        down = layer(
            state, f"path_down{level}.convs.0", expected[f"p{level - 1}"], 2, activation="relu"
        )
        expected[f"p{level}"] = layer(
            state, f"path_output{level}", down + p[level], activation="relu"
        )
    expected["p6"] = expected["p5"][:, :, ::2, ::2]

    found = neck(IMAGE)
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10, msg=name)


def plain_fusion(state, name, maps):
    """Fast normalised fusion of maps of one size, then the separable convolution."""
    weights = [max(0.0, float(w)) for w in state[f"{name}.merge.weight"]]
    assert len(weights) == len(maps)
    total = torch.zeros_like(maps[0])
    for weight, x in zip(weights, maps, strict=True):
        total = total + weight * x
    fused = total / (sum(weights) + 1e-4)
    fused = plain_conv(fused, state[f"{name}.conv.depthwise.weight"])
    return layer(state, f"{name}.conv.pointwise", fused, activation="swish")


@pytest.mark.parametrize(("top", "norm"), [("maxpool", ""), ("p6p7", "BN"), ("none", "BN")])
@pytest.mark.parametrize("sizes", SIZES)
def test_bifpn_is_the_published_fusion_of_all_levels_the_extra_ones_too(sizes, top, norm):
    # three features, as in the paper
    bottom_up = GivenMaps({level: SIZES[sizes][level] for level in (3, 4, 5)}, CHANNELS)
    top_block = {
        "maxpool": LastLevelMaxPool(), "p6p7": LastLevelP6P7(6, 4, "res5"), "none": None,
    }[top]  # fmt: skip
    neck = randomised(
        BiFPN(
            bottom_up,
            ["res3", "res4", "res5"],
            4,
            norm=norm,
            fusion_norm=norm,
            top_block=top_block,
            repeats=2,
        )
    )
    state = neck.state_dict()
    # a weight below zero counts as none
    with torch.no_grad():
        neck.layers[0].up4.merge.weight[1] = -0.7

    x = {lvl: layer(state, f"lateral{lvl}", bottom_up.maps[f"res{lvl}"]) for lvl in (3, 4, 5)}
    if top == "maxpool":
        x[6] = x[5][:, :, ::2, ::2]
    if top == "p6p7":
        x[6] = layer(state, "top_block.p6", bottom_up.maps["res5"], 2)
        x[7] = layer(state, "top_block.p7", x[6] * (x[6] > 0), 2)
    last = max(x)
    for i in range(2):
        down = {last: x[last]}
        for level in range(last - 1, 2, -1):
            resized = plain_up(down[level + 1], *x[level].shape[2:])
            down[level] = plain_fusion(state, f"layers.{i}.down{level}", [x[level], resized])
        up = {3: down[3]}
        for level in range(4, last + 1):
            own = [x[level]] if level == last else [x[level], down[level]]
            resized = plain_max_down(up[level - 1])
            up[level] = plain_fusion(state, f"layers.{i}.up{level}", [*own, resized])
        x = up

    found = neck(IMAGE)
    assert list(found) == [f"p{level}" for level in range(3, last + 1)]
    for level in x:
        torch.testing.assert_close(found[f"p{level}"], x[level], rtol=1e-9, atol=1e-10)


# --- what is particular -------------------------------------------------------------------------


def test_pafpn_takes_the_weights_of_an_fpn_and_agrees_with_it_at_the_finest_level():
    fpn, neck = build("MODEL.NECK.NAME", "FPN").eval(), build("MODEL.NECK.NAME", "PAFPN").eval()
    missing, unexpected = neck.load_state_dict(fpn.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("path_") for name in missing)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(neck(image)["p2"], fpn(image)["p2"])


def test_pafpn_before_its_path_is_deepfuse_fpn_of_plain_sums():
    bottom_up = GivenMaps(SIZES["odd"], CHANNELS)
    neck = randomised(PAFPN(bottom_up, list(bottom_up.maps), 4))
    sums = FuseSettings(merge="sum", depth=0)
    simple = DeepFuseFPN(bottom_up, list(bottom_up.maps), 4, settings=sums).double().eval()
    simple.load_state_dict(
        {name: v for name, v in neck.state_dict().items() if name.startswith("fpn_")}
    )
    assert torch.equal(neck(IMAGE)["p2"], simple(IMAGE)["p2"])


def test_bifpn_has_the_norm_and_repeats_of_the_config():
    neck = build("MODEL.NECK.NAME", "BiFPN", "MODEL.BIFPN.REPEATS", 4)
    assert len(neck.layers) == 4
    # on 5 levels, 4 fusions down and 4 up
    norms = [m for m in neck.layers.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 4 * 8
    assert not any(
        isinstance(m, nn.BatchNorm2d) for m in build("MODEL.NECK.NAME", "PAFPN").modules()
    )


def test_bifpn_trains_with_batch_norm():
    neck = build("MODEL.NECK.NAME", "BiFPN").train()
    outputs = neck(torch.randn(2, 3, 64, 128))
    weights = {name: torch.randn(output.shape) for name, output in outputs.items()}
    sum((output * weights[name]).sum() for name, output in outputs.items()).backward()
    for name, parameter in neck.named_parameters():
        if "bottom_up" not in name:
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["PAFPN", "BiFPN"])
def test_a_shorter_pyramid_has_its_levels_and_divisibility(name):
    neck = build("MODEL.NECK.NAME", name, "MODEL.NECK.IN_FEATURES", ["res3", "res4"]).eval()
    assert neck.size_divisibility == 16
    outputs = neck(torch.randn(1, 3, 64, 64))
    assert {level: tuple(x.shape[2:]) for level, x in outputs.items()} == {
        "p3": (8, 8), "p4": (4, 4), "p5": (2, 2),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["PAFPN", "BiFPN"])
@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["res2", "res9"], "are not among what the bottom-up network gives"),
        (["res2", "res4"], r"strides \[4, 16\]; each must be"),
        ([], "are not among"),
    ],
)
def test_features_that_make_no_pyramid_are_refused_by_the_peers_too(name, features, message):
    bottom_up = GivenMaps(SIZES["even"], CHANNELS)
    with pytest.raises(ValueError, match=message):
        {"PAFPN": PAFPN, "BiFPN": BiFPN}[name](bottom_up, features, 4)


def test_a_bifpn_of_one_level_or_no_layer_is_refused():
    bottom_up = GivenMaps(SIZES["even"], CHANNELS)
    with pytest.raises(ValueError, match=r"fuses two levels or more; in_features \['res4'\]"):
        BiFPN(bottom_up, ["res4"], 4)
    with pytest.raises(ValueError, match=r"BIFPN.REPEATS\) are 0; they must be 1 or more"):
        BiFPN(bottom_up, ["res3", "res4"], 4, repeats=0)
