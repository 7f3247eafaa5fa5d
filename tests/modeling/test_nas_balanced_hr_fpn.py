"""NAS-FPN, BFP and HRFPN: the suite of every neck, and the published formulas in plain loops."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from neck_suite import NeckSuite, build
from plain_necks import (
    CHANNELS,
    IMAGE,
    SIZES,
    GivenMaps,
    layer,
    plain_bilinear,
    plain_conv,
    plain_fpn,
    plain_max_down,
    plain_mean_down,
    plain_norm,
    plain_up,
    randomised,
)

from deepfuse_d2.modeling.neck import BFP, HRFPN, NASFPN, PooledLevels


class TestNASFPN(NeckSuite):
    # p6 of the suite's images is one pixel, which has no batch statistics
    overrides = (
        "MODEL.NECK.NAME", "NASFPN", "MODEL.NASFPN.NORM", "FrozenBN", "MODEL.NASFPN.REPEATS", 2,
    )  # fmt: skip

    @pytest.mark.parametrize("top_block", ["maxpool", "p6p7", "avgpool", "maxpool_p6p7"])
    @pytest.mark.parametrize("size", [(64, 96), (70, 101)])
    def test_outputs_have_the_declared_channels_and_strides(self, size, top_block):
        # five levels, with one or two on top
        first = 3 if "p7" in top_block else 2
        features = [f"res{level}" for level in range(first, 6)]
        names = [f"p{level}" for level in range(first, first + 5)]
        self.check_outputs(
            size, names, "MODEL.NECK.TOP_BLOCK", top_block, "MODEL.NECK.IN_FEATURES", features
        )


class TestNASFPNWithoutNorm(TestNASFPN):
    overrides = ("MODEL.NECK.NAME", "NASFPN", "MODEL.NASFPN.NORM", "", "MODEL.NASFPN.REPEATS", 1)


class TestBFP(NeckSuite):
    # large maps, of a network without norms, would saturate the softmax
    overrides = ("MODEL.NECK.NAME", "BFP", "MODEL.NECK.NORM", "GN")


class TestBFPOfConvolution(NeckSuite):
    overrides = ("MODEL.NECK.NAME", "BFP", "MODEL.BFP.REFINE", "conv", "MODEL.BFP.LEVEL", 3)


class TestHRFPN(NeckSuite):
    overrides = ("MODEL.NECK.NAME", "HRFPN")


class TestHRFPNWithNorm(NeckSuite):
    overrides = ("MODEL.NECK.NAME", "HRFPN", "MODEL.NECK.NORM", "GN")


# --- plain loops --------------------------------------------------------------------------------


def plain_attend(coarse, fine):
    """Maxima of the coarser map's channels, through a logistic function, weigh the finer map."""
    result = torch.empty_like(fine)
    for n in range(fine.shape[0]):
        for c in range(fine.shape[1]):
            weight = (1 + math.tanh(float(coarse[n, c].max()) / 2)) / 2
            result[n, c] = coarse[n, c] + weight * fine[n, c]
    return result


def plain_resize(x, steps, size):
    """By 2^steps: coarser by maxima of windows, finer by the nearest neighbour."""
    if steps < 0:
        return plain_up(x, *size)
    for _ in range(steps):
        x = plain_max_down(x)
    assert x.shape[2:] == size
    return x


def plain_cell(state, name, x):
    """One cell of NAS-FPN on x[0] .. x[4], with the names of the paper's formulas."""
    size = [each.shape[2:] for each in x]

    def conv(k, value):
        return layer(state, f"{name}.merges.{k}.conv", value * (value > 0))

    a = conv(0, plain_attend(plain_resize(x[3], -2, size[1]), x[1]))
    b = conv(1, x[1] + a)
    y0 = conv(2, x[0] + plain_resize(b, -1, size[0]))
    y1 = conv(3, b + plain_resize(y0, 1, size[1]))
    y2 = conv(4, plain_attend(plain_resize(y1, 1, size[2]), plain_resize(y0, 2, size[2])) + x[2])
    y4 = conv(5, plain_attend(plain_resize(y2, 2, size[4]), plain_resize(b, 3, size[4])) + x[4])
    y3 = conv(6, plain_attend(plain_resize(y4, -1, size[3]), plain_resize(y2, 1, size[3])))
    return [y0, y1, y2, y3, y4]


@pytest.mark.parametrize(("top", "norm"), [("maxpool_p6p7", "BN"), ("p6p7", ""), ("maxpool", "BN")])
@pytest.mark.parametrize("sizes", SIZES)
def test_nas_fpn_is_the_published_cell_repeated(sizes, top, norm):
    given = (2, 3, 4, 5) if top == "maxpool" else (3, 4, 5)
    bottom_up = GivenMaps({level: SIZES[sizes][level] for level in given}, CHANNELS)
    top_block = {
        "maxpool": LastLevelMaxPool(), "p6p7": LastLevelP6P7(6, 4, "res5"),
        "maxpool_p6p7": PooledLevels("p5", 2, "max"),
    }[top]  # fmt: skip
    names = [f"res{level}" for level in given]
    neck = randomised(
        NASFPN(bottom_up, names, 4, norm=norm, fusion_norm=norm, top_block=top_block, repeats=2)
    )
    state = neck.state_dict()

    x = [layer(state, f"lateral{level}", bottom_up.maps[f"res{level}"]) for level in given]
    if top == "maxpool":
        x.append(x[-1][:, :, ::2, ::2])
    if top == "maxpool_p6p7":
        x.append(plain_max_down(x[-1]))
        x.append(plain_max_down(x[-1]))
    if top == "p6p7":
        x.append(layer(state, "top_block.p6", bottom_up.maps["res5"], 2))
        x.append(layer(state, "top_block.p7", x[-1] * (x[-1] > 0), 2))
    for i in range(2):
        x = plain_cell(state, f"layers.{i}", x)

    found = neck(IMAGE)
    assert list(found) == [f"p{level}" for level in range(given[0], given[0] + 5)]
    for expected, (name, value) in zip(x, found.items(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10, msg=name)


def plain_non_local(state, x):
    """Each position adds a mean over all, weighted by the exponential of scalar products."""
    theta, phi, g = (layer(state, f"refine.{name}", x).flatten(2) for name in ("theta", "phi", "g"))
    mean = torch.zeros_like(g)
    for n in range(x.shape[0]):
        for p in range(g.shape[2]):
            weights = [math.exp(float(theta[n, :, p] @ phi[n, :, q])) for q in range(g.shape[2])]
            for q, weight in enumerate(weights):
                mean[n, :, p] += weight / sum(weights) * g[n, :, q]
    return x + layer(state, "refine.project", mean.reshape(x.shape))


@pytest.mark.parametrize(
    ("refine", "middle", "norm"), [("non_local", 4, ""), ("conv", 3, "BN"), ("none", 5, "")]
)
@pytest.mark.parametrize("sizes", SIZES)
def test_bfp_is_the_published_balance_of_an_fpn(sizes, refine, middle, norm):
    bottom_up = GivenMaps(SIZES[sizes], CHANNELS)
    neck = randomised(
        BFP(
            bottom_up, list(bottom_up.maps), 4, norm=norm, top_block=LastLevelMaxPool(),
            level=middle, refine=refine,
        )
    )  # fmt: skip
    state = neck.state_dict()

    p = plain_fpn(state, bottom_up.maps, SIZES[sizes])
    p[6] = p[5][:, :, ::2, ::2]
    size = {level: x.shape[2:] for level, x in p.items()}
    mean = torch.zeros_like(p[middle])
    for level, x in p.items():
        mean = mean + plain_resize(x, middle - level, size[middle]) / 5
    if refine == "non_local":
        mean = plain_non_local(state, mean)
    if refine == "conv":
        mean = layer(state, "refine.0", mean, activation="relu")

    found = neck(IMAGE)
    assert list(found) == [f"p{level}" for level in p]
    for level, x in p.items():
        expected = x + plain_resize(mean, level - middle, size[level])
        torch.testing.assert_close(found[f"p{level}"], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("norm", ["", "BN"])
@pytest.mark.parametrize("sizes", SIZES)
def test_hrfpn_is_a_convolution_of_all_features_at_the_finest_resolution_pooled(sizes, norm):
    bottom_up = GivenMaps(SIZES[sizes], CHANNELS)
    top_block = PooledLevels("p5", 1, "avg")
    neck = randomised(HRFPN(bottom_up, list(bottom_up.maps), 4, norm=norm, top_block=top_block))
    state = neck.state_dict()

    enlarged = [plain_bilinear(x, *SIZES[sizes][2]) for x in bottom_up.maps.values()]
    weight = torch.cat([state[f"lateral{level}.weight"] for level in (2, 3, 4, 5)], dim=1)
    joined = plain_conv(torch.cat(enlarged, dim=1), weight, state.get("lateral2.bias"))
    if norm:
        joined = plain_norm(joined, state, "norm")
    pooled = {2: joined, 3: plain_mean_down(joined, 2), 4: plain_mean_down(joined, 4)}
    pooled[5] = plain_mean_down(joined, 8)
    # of whole windows, as published, the same as windows of 16
    pooled[6] = plain_mean_down(pooled[5], 2)
    if sizes == "even":
        torch.testing.assert_close(pooled[6], plain_mean_down(joined, 16))

    found = neck(IMAGE)
    assert list(found) == [f"p{level}" for level in pooled]
    for level, x in pooled.items():
        expected = layer(state, f"output{level}", x)
        torch.testing.assert_close(found[f"p{level}"], expected, rtol=1e-9, atol=1e-10)


# --- parameters ---------------------------------------------------------------------------------


class Shapes(Backbone):
    """A bottom-up network that only says what it would give, of strides 4, 8, 16 and 32."""

    def __init__(self, channels):
        super().__init__()
        self.shapes = {
            f"res{i + 2}": ShapeSpec(channels=width, stride=4 * 2**i)
            for i, width in enumerate(channels)
        }

    def forward(self, image):
        raise NotImplementedError

    def output_shape(self):
        return self.shapes


RESNET_50 = (256, 512, 1024, 2048)
NAMES = ["res2", "res3", "res4", "res5"]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_retinanet_on_nas_fpn_has_the_parameters_of_the_papers_table_1():
    top = PooledLevels("p5", 2, "max")
    with torch.device("meta"):
        neck = NASFPN(Shapes(RESNET_50), NAMES[1:], 256, top_block=top, repeats=7)
    laterals = (512 + 1024 + 2048) * 256 + 3 * 256
    # seven 3x3 convolutions a cell, each with a batch norm
    assert count(neck) == laterals + 7 * 7 * (9 * 256 * 256 + 2 * 256)
    resnet = 23_508_032
    towers = 2 * 4 * (9 * 256 * 256 + 256)
    predictors = (9 * 256 + 1) * 9 * (90 + 4)
    assert resnet + count(neck) + towers + predictors == pytest.approx(60.3e6, rel=0.005)


def test_the_non_local_block_has_a_quarter_of_a_million_parameters_as_published():
    with torch.device("meta"):
        neck = BFP(Shapes(RESNET_50), NAMES, 256)
    # four 1x1 convolutions, of which one needs no bias
    assert count(neck.refine) == 4 * (256 * 256 + 256) - 256
    assert count(neck) - count(neck.refine) == 3_344_384


def test_hrfpn_has_the_parameters_of_one_convolution_of_all_channels():
    # of HRNet-W32
    with torch.device("meta"):
        neck = HRFPN(Shapes((32, 64, 128, 256)), NAMES, 256, top_block=PooledLevels("p5", 1, "avg"))
    assert count(neck) == (480 * 256 + 256) + 5 * (9 * 256 * 256 + 256) == 3_073_536


# --- what is particular -------------------------------------------------------------------------


def test_bfp_takes_the_weights_of_an_fpn_and_starts_by_adding_the_mean():
    fpn, neck = build("MODEL.NECK.NAME", "FPN").eval(), build("MODEL.NECK.NAME", "BFP").eval()
    missing, unexpected = neck.load_state_dict(fpn.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("refine.") for name in missing)
    plain = build("MODEL.NECK.NAME", "BFP", "MODEL.BFP.REFINE", "none").eval()
    plain.load_state_dict(fpn.state_dict())
    image = torch.randn(1, 3, 64, 64)
    for name, expected in plain(image).items():
        assert torch.equal(neck(image)[name], expected)
        assert not torch.equal(fpn(image)[name], expected)


def test_the_part_of_each_feature_in_hrfpn_starts_as_in_one_convolution():
    neck = build("MODEL.NECK.NAME", "HRFPN", "MODEL.NECK.OUT_CHANNELS", 256)
    channels = 64 + 128 + 256 + 512
    for level in (2, 3, 4, 5):
        weight = getattr(neck, f"lateral{level}").weight.detach()
        assert weight.abs().max() <= (3 / channels) ** 0.5
        assert float(weight.var()) * channels == pytest.approx(1, rel=0.05)


def test_nas_fpn_has_the_norm_and_repeats_of_the_config():
    neck = build("MODEL.NECK.NAME", "NASFPN")
    assert len(neck.layers) == 7
    norms = [m for m in neck.layers.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 7 * 7


def test_nas_fpn_trains_with_batch_norm():
    neck = build("MODEL.NECK.NAME", "NASFPN", "MODEL.RESNETS.NORM", "BN").train()
    outputs = neck(torch.randn(2, 3, 64, 128))
    weights = {name: torch.randn(output.shape) for name, output in outputs.items()}
    sum((output * weights[name]).sum() for name, output in outputs.items()).backward()
    for name, parameter in neck.named_parameters():
        if "bottom_up" not in name:
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("neck", ["FPN", "DeepFuseFPN", "PAFPN", "BiFPN", "BFP", "HRFPN"])
@pytest.mark.parametrize(("top", "extra"), [("avgpool", ["p6"]), ("maxpool_p6p7", ["p6", "p7"])])
def test_pooled_levels_go_with_every_neck(neck, top, extra):
    overrides = ("MODEL.NECK.NAME", neck, "MODEL.NECK.TOP_BLOCK", top)
    outputs = build(*overrides).eval()(torch.randn(1, 3, 64, 128))
    assert list(outputs) == ["p2", "p3", "p4", "p5", *extra]
    for name in extra:
        side = 2 ** int(name[1])
        assert outputs[name].shape == (1, 32, 64 // side or 1, 128 // side)


def test_pooled_levels_are_maxima_or_means_of_the_level_below():
    x = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    six, seven = PooledLevels("p5", 2, "max")(x)
    assert torch.equal(six, plain_max_down(x))
    assert torch.equal(seven, plain_max_down(six))
    (six,) = PooledLevels("p5", 1, "avg")(x)
    torch.testing.assert_close(six, plain_mean_down(x, 2))


@pytest.mark.parametrize(
    ("features", "count"), [(["res3", "res4"], 2), (["res2", "res3", "res4", "res5"], 4)]
)
def test_nas_fpn_on_other_than_five_levels_is_refused(features, count):
    bottom_up = GivenMaps(SIZES["even"], CHANNELS)
    with pytest.raises(ValueError, match=f'five levels; .* give {count}.*"maxpool_p6p7"'):
        NASFPN(bottom_up, features, 4)


@pytest.mark.parametrize("neck", [BFP, HRFPN, NASFPN])
@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["res2", "res9"], "are not among what the bottom-up network gives"),
        (["res2", "res4"], r"strides \[4, 16\]; each must be"),
    ],
)
def test_features_that_make_no_pyramid_are_refused(neck, features, message):
    with pytest.raises(ValueError, match=message):
        neck(GivenMaps(SIZES["even"], CHANNELS), features, 4)


def test_what_bfp_does_not_know_is_answered_with_what_it_knows():
    bottom_up = GivenMaps(SIZES["even"], CHANNELS)
    with pytest.raises(ValueError, match=r"level 6 \(MODEL.BFP.LEVEL\).*\[2, 3, 4, 5\]"):
        BFP(bottom_up, NAMES, 4, level=6)
    with pytest.raises(ValueError, match=r'refine "gaussian".*non_local.*conv.*none'):
        BFP(bottom_up, NAMES, 4, refine="gaussian")
    with pytest.raises(ValueError, match=r"repeats of NASFPN \(MODEL.NASFPN.REPEATS\) are 0"):
        NASFPN(bottom_up, NAMES, 4, top_block=LastLevelMaxPool(), repeats=0)
