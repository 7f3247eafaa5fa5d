"""Composite backbones: the styles, against loops; what is shared, pruned and started at zero."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from backbone_suite import BackboneSuite, build, perturb_norms
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem
from detectron2.modeling.backbone.swin import SwinTransformer
from detectron2.modeling.backbone.vit import ViT

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.backbone import CompositeBackbone, Res2Net
from deepfuse_d2.modeling.backbone.by_stages import feature_of, levels_of, run_stage
from deepfuse_d2.modeling.backbone.composite import STYLES
from deepfuse_d2.modeling.neck.fpn import FPN

COMPOSITE = ("MODEL.BACKBONE.NAME", "build_composite_backbone", "MODEL.COMPOSITE.BOTTOM_UP")
SMALL = (
    *COMPOSITE, "build_resnet_backbone",
    "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
)  # fmt: skip
FEATURES = ("res2", "res3", "res4", "res5")


def options(**keys):
    return [x for key, value in keys.items() for x in (f"MODEL.COMPOSITE.{key}", value)]


class TestDenseHigherLevels(BackboneSuite):
    overrides = (*SMALL, *options(ZERO_INIT=False))
    # detectron2's ResNet is checkpointed by the trainer
    checkpoint_stages = ()

    def frozen_features(self, freeze_at):
        """From res3 on, the lead's input has learning connections in it, until all is frozen."""
        frozen = super().frozen_features(freeze_at)
        return frozen if freeze_at >= 5 else frozen & {"res2"}


class TestOfRes2NetWithoutPruning(TestDenseHigherLevels):
    overrides = (
        *COMPOSITE, "build_res2net_backbone", "MODEL.RESNETS.DEPTH", 26,
        *options(PRUNE=0, STYLE="ahlc"),
    )  # fmt: skip
    checkpoint_stages = FEATURES

    def frozen_features(self, freeze_at):
        return set(FEATURES) if freeze_at >= 5 else set()


class TestOfMobileNet(TestDenseHigherLevels):
    overrides = (*COMPOSITE, "build_mobilenet_v2_backbone", *options(STYLE="dhlc"))


def count(*overrides):
    with torch.device("meta"):
        network = build(*COMPOSITE, *overrides)
    return sum(p.numel() for p in network.parameters())


RESNET = ("build_resnet_backbone", "MODEL.RESNETS.DEPTH")
V1 = options(STYLE="ahlc", PRUNE=0, ZERO_INIT=False)
RESNEXT = {
    4: ("MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    8: ("MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 8),
}


@pytest.mark.parametrize(
    ("depth", "more", "dual", "triple"),
    [
        (50, (), 49_779_136, 76_050_240),
        (101, (), 87_763_392, 133_026_624),
        (152, (), 119_050_688, None),
        (101, RESNEXT[4], 87_020_480, 131_912_256),
        (152, RESNEXT[8], 243_409_856, None),
    ],
)
def test_cbnet_has_the_published_parameters(depth, more, dual, triple):
    assert count(*RESNET, depth, *more, *V1) == dual
    if triple is not None:
        assert count(*RESNET, depth, *more, *V1, *options(NUM_BACKBONES=3)) == triple


@pytest.mark.parametrize(
    ("network", "published"),
    [
        ((*RESNET, 50), (51_846_080, 51_384_000, 49_245_376, 40_572_096)),
        ((*RESNET, 101), (89_830_336, 89_368_256, 87_229_632, 59_564_224)),
    ],
)
def test_cbnet_v2_of_resnets_has_the_published_parameters(network, published):
    # less those of a norm of the lead's stem, which the public code forgets to take out
    assert [count(*network, *options(PRUNE=d)) for d in range(4)] == [n - 128 for n in published]


@pytest.mark.parametrize(
    ("depth", "published"),
    [
        (50, [52_149_360, 51_689_032, 49_540_136, 40_766_856]),
        (101, [91_164_496, 90_704_168, 88_555_272, 60_274_424]),
    ],
)
def test_cbnet_v2_of_res2nets_has_the_published_parameters(depth, published):
    network = (
        "build_res2net_backbone", "MODEL.RESNETS.DEPTH", depth,
        "MODEL.RES2NET.DEEP_STEM", True, "MODEL.RES2NET.AVG_DOWN", True,
    )  # fmt: skip
    assert [count(*network, *options(PRUNE=d)) for d in range(4)] == published


@pytest.mark.parametrize(("prune", "connections"), [(0, 4_839_424), (1, 4_593_152), (2, 3_674_112)])
def test_dense_connections_have_the_published_parameters(prune, connections):
    with torch.device("meta"):
        network = build(*COMPOSITE, *RESNET, 50, *options(PRUNE=prune))
    assert sum(p.numel() for p in network.connections.parameters()) == connections


def test_shared_weights_add_the_connections_alone():
    assert count(*RESNET, 50, *V1, *options(SHARE_WEIGHTS=True)) == 23_508_032 + 2_772_608


@pytest.mark.parametrize("size", [(256, 512), (200, 333)])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("number", "prune"), [(2, 0), (2, 1), (3, 0), (3, 2)])
def test_taps_of_all_branches_have_the_published_sizes(size, style, number, prune):
    overrides = options(STYLE=style, NUM_BACKBONES=number, PRUNE=prune)
    network = build(*COMPOSITE, *RESNET, 50, *overrides, "MODEL.RESNETS.DEPTH", 26,
        "MODEL.COMPOSITE.BOTTOM_UP", "build_res2net_backbone").eval()  # fmt: skip
    with torch.no_grad():
        branches = network.branches(torch.randn(1, 3, *size), all_levels=False)
    assert len(branches) == number
    for features in branches:
        for name, feature in features.items():
            level = FEATURES.index(name)
            stride = 4 * 2**level
            sides = tuple(-(-side // stride) for side in size)
            assert feature.shape == (1, 256 * 2**level, *sides)
    assert tuple(branches[-1]) == FEATURES


def reference(network, image, style, prune, number):
    """The formulas at the top of composite.py as plain loops over levels of a ResNet's modules."""
    names = ["stem", *FEATURES]
    before = None
    for k in range(number):
        child = network.backbones[k]
        x = [before[0] if k else child.stem(image)]
        last = 4 if k == number - 1 else max({"slc": 3, "allc": 2}.get(style, 4), prune)
        for level in range(1, last + 1):
            if k and level <= prune:
                x.append(before[level])
                continue
            value = x[level - 1]
            size = value.shape[-2:]
            sources = {
                "slc": [],
                "ahlc": [level],
                "allc": [level - 2] if level > 1 else [],
                "dhlc": range(level, 5),
            }[style]
            feed = torch.zeros_like(value)
            if k and style == "slc" and level > 1:
                feed = before[level - 1]
            for i in sources if k else ():
                conv = network.connections[str(k)][names[level]][names[i]].conv
                y = F.conv2d(before[i], conv.weight)
                scale = conv.norm.weight / (conv.norm.running_var + conv.norm.eps).sqrt()
                y = (y - conv.norm.running_mean[:, None, None]) * scale[:, None, None]
                y = y + conv.norm.bias[:, None, None]
                if i >= level:
                    rows = (torch.arange(size[0]) * y.shape[-2]) // size[0]
                    columns = (torch.arange(size[1]) * y.shape[-1]) // size[1]
                    y = y[..., rows, :][..., columns]
                elif y.shape[-1] != size[1]:
                    y = F.max_pool2d(y, 2, 2, ceil_mode=True)
                feed = feed + y
            x.append(getattr(child, names[level])(value + feed))
        before = x
    return dict(zip(FEATURES, before[1:], strict=True))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("number", "prune"), [(2, 0), (2, 1), (2, 3), (3, 0), (3, 1)])
def test_every_style_is_its_formula(style, number, prune):
    overrides = options(STYLE=style, NUM_BACKBONES=number, PRUNE=prune, ZERO_INIT=False)
    network = perturb_norms(build(*SMALL, *overrides)).eval().double()
    image = torch.randn(2, 3, 70, 101, dtype=torch.float64)
    with torch.no_grad():
        found, expected = network(image), reference(network, image, style, prune, number)
    for name in FEATURES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize(("style", "kept"), [("slc", 4), ("allc", 3), ("ahlc", 5), ("dhlc", 5)])
def test_stages_of_an_assistant_that_nothing_takes_are_not_kept(style, kept):
    names = ["stem", *FEATURES]
    for weights, expected in (([], names[:kept]), ([0.5], names)):
        overrides = options(STYLE=style, ASSISTANT_WEIGHTS=weights)
        assistant = build(*SMALL, *overrides).backbones[0]
        assert [n for n in names if list(getattr(assistant, n).parameters())] == expected


def equal_children(network):
    """`network` with the weights of its first network in all of them."""
    first = network.backbones[0].state_dict()
    for other in network.backbones[1:]:
        other.load_state_dict({n: first[n] for n in other.state_dict()})
    return network


@pytest.mark.parametrize("style", ["ahlc", "allc", "dhlc"])
@pytest.mark.parametrize("prune", [0, 1, 2])
@pytest.mark.parametrize("number", [2, 3])
def test_with_zero_init_and_equal_weights_it_is_the_network_bit_for_bit(style, prune, number):
    overrides = options(STYLE=style, PRUNE=prune, NUM_BACKBONES=number)
    network = build(*SMALL, *overrides)
    plain = perturb_norms(build(*SMALL[4:]))
    for child in network.backbones:
        child.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(2, 3, 70, 101)
    with torch.no_grad():
        expected, found = plain.eval()(image), network.eval()(image)
    for name in FEATURES:
        assert torch.equal(found[name], expected[name]), name


def test_an_own_stem_of_the_lead_is_kept_where_it_is_asked_for():
    own = build(*SMALL, *options(PRUNE=0, SHARE_STEM=False))
    assert list(own.backbones[1].stem.parameters())
    shared = build(*SMALL, *options(PRUNE=0))
    assert not list(shared.backbones[1].stem.parameters())
    # a pruned lead starts later
    assert not list(build(*SMALL, *options(SHARE_STEM=False)).backbones[1].stem.parameters())
    with torch.no_grad():
        equal_children(own).backbones[1].stem.conv1.weight.zero_()
        image = torch.randn(1, 3, 64, 64)
        first, lead = own.eval().branches(image)
    assert not torch.equal(first["res2"], lead["res2"])


def test_a_pruned_lead_has_no_early_stages_and_gives_the_assistants():
    network = build(*SMALL).eval()
    names = {n.split(".")[0] for n, _ in network.backbones[1].named_parameters()}
    assert names == {"res3", "res4", "res5"}
    assert list(network.state_dict()) == list(copy.deepcopy(network).state_dict())
    first, lead = network.branches(torch.randn(1, 3, 64, 64))
    assert lead["res2"] is first["res2"]
    assert lead["res3"] is not first["res3"]


@pytest.mark.parametrize(
    ("style", "changed"), [("dhlc", {"res3", "res4", "res5"}), ("ahlc", {"res5"})]
)
def test_the_last_stage_of_the_assistant_reaches_the_levels_of_the_style(style, changed):
    network = build(*SMALL, *options(STYLE=style, ZERO_INIT=False)).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = network(image)
        network.backbones[0].res5[1].conv2.weight.normal_()
        after = network(image)
    assert {n for n in FEATURES if not torch.equal(before[n], after[n])} == changed


def test_connections_leave_zero_although_their_statistics_never_move():
    network = build(*SMALL).train()
    convs = [m.conv for m in network.modules() if hasattr(m, "resize")]
    assert len(convs) == 3 + 2 + 1
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    image = torch.randn(2, 3, 64, 64)
    for step in range(2):
        optimizer.zero_grad()
        sum(f.square().mean() for f in network(image).values()).backward()
        for conv in convs:
            assert conv.norm.weight.grad.abs().sum() > 0
            assert conv.norm.bias.grad.abs().sum() > 0
            assert (conv.weight.grad.abs().sum() > 0) == (step > 0)
            assert not conv.norm.running_mean.any()
            assert (conv.norm.running_var == 1).all()
            assert not conv.norm.training
        optimizer.step()


@pytest.mark.parametrize("norm", ["", "GN", "BN"])
def test_connections_take_other_norms_and_start_at_zero_too(norm):
    network = equal_children(build(*SMALL, *options(NORM=norm))).eval()
    first, lead = network.branches(torch.randn(1, 3, 64, 64))
    for name in FEATURES:
        assert torch.equal(first[name], lead[name]), name


def test_one_network_alone_is_itself():
    child = Res2Net(depth=26, out_features=list(FEATURES)).eval()
    image = torch.randn(1, 3, 64, 64)
    expected = child(image)
    for style in STYLES:
        network = CompositeBackbone([child], style=style, prune=0).eval()
        for name, feature in network(image).items():
            assert torch.equal(feature, expected[name])


def test_shared_weights_run_as_often_as_asked():
    network = build(*SMALL, *options(SHARE_WEIGHTS=True, NUM_BACKBONES=3, ZERO_INIT=False)).eval()
    assert [n for n, _ in network.backbones.named_children()] == ["0"]
    branches = network.branches(torch.randn(1, 3, 64, 64))
    assert len(branches) == 3
    for a, b in itertools.pairwise(branches):
        assert not torch.equal(a["res5"], b["res5"])


def regnet():
    return RegNet(
        stem_class=SimpleStem, stem_width=8, block_class=ResBottleneckBlock, depth=4, w_a=8, w_0=8,
        w_m=2, group_width=8, out_features=["s1", "s2"],
    )  # fmt: skip


def swin():
    return SwinTransformer(
        embed_dim=8, depths=(2, 1, 1), num_heads=(1, 1, 1), window_size=2, out_indices=(0, 1, 2),
        drop_path_rate=0.0, ape=True, pretrain_img_size=64,
    )  # fmt: skip


def timm(name, **arguments):
    def make():
        pytest.importorskip("timm")
        from deepfuse_d2.modeling.backbone import TimmBackbone

        return TimmBackbone(name, arguments=arguments)

    return make


CHILDREN = {
    "RegNet": regnet,
    "Swin": swin,
    "MobileNet": lambda: build("MODEL.BACKBONE.NAME", "build_mobilenet_v2_backbone"),
    "DLA": lambda: build("MODEL.BACKBONE.NAME", "build_dla_backbone"),
    "timm ConvNeXt": timm("convnext_atto"),
    "timm ResNet": timm("resnet10t"),
    "timm EfficientNet": timm("efficientnet_b0"),
    "timm Swin": timm("swin_tiny_patch4_window7_224", strict_img_size=False, embed_dim=24),
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_children_run_by_stages_give_what_they_give_as_a_whole(kind):
    child = perturb_norms(CHILDREN[kind]()).eval()
    image = torch.randn(1, 3, 70, 101)
    with torch.no_grad():
        expected, found, x = child(image), {}, image
        for level in levels_of(child):
            for name in level:
                x = run_stage(child, name, x)
                if name in expected:
                    found[name] = feature_of(child, name, x, (70, 101))
        assert found.keys() == expected.keys()
        for name, feature in expected.items():
            assert torch.equal(found[name], feature), name
        # equal weights and no connections yet: the composite is the child
        network = CompositeBackbone([copy.deepcopy(child), copy.deepcopy(child)], prune=1).eval()
        for name, feature in network(image).items():
            assert torch.equal(feature, expected[name]), name
    assert network.output_shape() == child.output_shape()
    learning = [n for n, p in network.train().named_parameters() if p.requires_grad]
    sum(f.square().mean() for f in network(image).values()).backward()
    gradients = dict(network.named_parameters())
    assert not [n for n in learning if gradients[n].grad is None]


def test_detectron2s_swin_goes_below_a_neck_in_a_composite():
    network = CompositeBackbone([swin(), swin()])
    assert network.size_divisibility == 0
    neck = FPN(network, ["p0", "p1", "p2"], 8).eval()
    assert neck.size_divisibility == 16
    with torch.no_grad():
        found = neck(torch.randn(1, 3, 64, 64))
    assert [tuple(f.shape[2:]) for f in found.values()] == [(16, 16), (8, 8), (4, 4)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("build_fishnet_backbone",), r"build_fishnet_backbone builds a FishNetBackbone.*the tail"),
        (("build_deepfuse_resnet_backbone",), r"DeepFuseResNet.*results of several stages at once"),
        (
            ("build_two_scale_backbone", "MODEL.TWO_SCALE.BOTTOM_UP", "build_resnet_backbone"),
            r"a TwoScaleBackbone, which cannot be run stage by stage: it is a wrapper",
        ),
        (
            ("build_composite_backbone",),
            r"COMPOSITE.BOTTOM_UP = \"build_composite_backbone\" is no",
        ),
        (("build_resnet_backbone", *options(STYLE="fcc")), r"style \"fcc\".*STYLE.*'slc', 'ahlc'"),
        (("build_resnet_backbone", *options(PRUNE=5)), r"take 5 stages.*PRUNE.*choose 0 to 4"),
        (("build_resnet_backbone", *options(NUM_BACKBONES=1)), r"NUM_BACKBONES is 1.*2 or more"),
        (("build_resnet_backbone", *options(NORM="FrozenBN")), r"would stay 0 for good.*FixedBN"),
        (
            ("build_resnet_backbone", *options(ASSISTANT_WEIGHTS=[0.5, 1.0])),
            r"ASSISTANT_WEIGHTS is \[0.5, 1.0\].*each of the 1 assistants",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build(*SMALL[:3], *overrides, *SMALL[4:])


def test_networks_that_do_not_run_by_stages_are_refused_by_name():
    vit = ViT(img_size=32, embed_dim=8, depth=2, num_heads=1)
    with pytest.raises(ConfigError, match=r"builds a ViT, which .*no run_stage"):
        CompositeBackbone([vit, vit])


def test_timms_networks_that_do_not_run_by_stages_are_refused_by_name():
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=r"TimmBackbone.*its modules do not give its features"):
        build(
            *SMALL[:3], "build_timm_backbone", "MODEL.TIMM.NAME", "hrnet_w18_small",
        )  # fmt: skip
