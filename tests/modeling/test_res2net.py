"""Res2Net and DLA: the suite of every backbone, the published figures, and timm as the oracle."""

import itertools

import pytest
import timm
import torch
import torch.nn.functional as F
from backbone_suite import FEATURES, BackboneSuite, backbone_config, build, perturb_norms
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn

from deepfuse_d2.checkpoint.sources.res2net_names import (
    is_dla,
    is_res2net,
    rename_dla,
    rename_res2net,
)
from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.backbone import DLA, Res2Net, dla, res2net
from deepfuse_d2.modeling.backbone.res2net_blocks import MultiScaleBranch, Res2NetBlock

SMALL = (
    "MODEL.BACKBONE.NAME", "build_res2net_backbone", "MODEL.RESNETS.DEPTH", 26,
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP", 16,
)  # fmt: skip
SMALL_DLA = (
    "MODEL.BACKBONE.NAME", "build_dla_backbone",
    "MODEL.DLA.LEVELS", [1, 2, 1, 1], "MODEL.DLA.CHANNELS", [32, 32, 48, 64],
)  # fmt: skip


class TestRes2Net(BackboneSuite):
    overrides = SMALL


class TestRes2NeXtV1b(BackboneSuite):
    overrides = (
        *SMALL, "MODEL.RES2NET.DEEP_STEM", True, "MODEL.RES2NET.AVG_DOWN", True,
        "MODEL.RESNETS.NUM_GROUPS", 2, "MODEL.RES2NET.SCALE", 3, "MODEL.RES2NET.BASE_WIDTH", 16,
    )  # fmt: skip


class TestRes2NetDLA(BackboneSuite):
    overrides = SMALL_DLA


# timm's name, or arguments -> parameters with the classifier, and of res2 to res5
PUBLISHED = [
    ("res2net50_26w_4s", 25_699_120, (214_056, 1_229_856, 7_198_368, 14_998_304)),
    ("res2net50_48w_2s", 25_287_304, (210_528, 1_207_552, 7_058_176, 14_752_512)),
    ("res2net50_14w_8s", 25_059_816, (207_264, 1_197_280, 7_009_760, 14_586_976)),
    ("res2net50_26w_6s", 37_051_448, (321_072, 1_825_568, 10_820_896, 22_025_376)),
    ("res2net50_26w_8s", 48_403_776, (428_088, 2_421_280, 14_443_424, 29_052_448)),
    ("res2net101_26w_4s", 45_206_688, (214_056, 1_229_856, 26_705_936, 14_998_304)),
    ("res2next50", 24_671_464, (202_176, 1_178_112, 6_910_464, 14_322_176)),
    ("res2net50d", 25_718_352, (214_056, 1_229_856, 7_198_368, 14_998_304)),
    ("res2net101d", 45_225_920, (214_056, 1_229_856, 26_705_936, 14_998_304)),
    (
        {"depth": 152, "deep_stem": True, "avg_down": True},
        61_294_480, (214_056, 2_380_864, 41_623_488, 14_998_304),
    ),
    ({"base_width": 18}, 18_095_104, (142_200, 831_136, 4_775_968, 10_287_264)),
    (
        {"base_width": 18, "scale": 6},
        25_158_664, (208_512, 1_202_080, 7_035_040, 14_654_496),
    ),
    # ResNet-50
    (
        {"base_width": 64, "scale": 1},
        25_557_032, (215_808, 1_219_584, 7_098_368, 14_964_736),
    ),
]  # fmt: skip


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("variant", "total", "stages"), PUBLISHED, ids=lambda v: str(v)[:50])
def test_parameters_are_counted_as_published(variant, total, stages):
    arguments = res2net.VARIANTS[variant] if isinstance(variant, str) else variant
    with torch.device("meta"):
        network = Res2Net(**arguments, num_classes=1000)
    assert parameters(network) == total
    assert tuple(parameters(getattr(network, stage)) for stage in FEATURES) == stages
    assert parameters(network.stem) == (28_768 if "deep_stem" in arguments else 9_536)


@pytest.mark.parametrize("name", list(dla.VARIANTS))
def test_dlas_have_timms_count_of_parameters(name):
    # the paper's 21.15 M and 17.33 M include projections that are never used
    with torch.device("meta"):
        ours, theirs = DLA(**dla.VARIANTS[name], num_classes=1000), timm.create_model(name)
    assert parameters(ours) == parameters(theirs)


# the 101s differ from the 50s in the number of blocks alone; benchmarks/backbones.py --parity
# compares them too
@pytest.mark.parametrize(
    "name", ["res2net50_26w_4s", "res2net50_48w_2s", "res2net50_14w_8s", "res2next50", "res2net50d"]
)
def test_renamed_weights_give_timms_features_to_the_bit(name):
    assert_parity(name, Res2Net(**res2net.VARIANTS[name], out_features=FEATURES), (1, 2, 3, 4))


@pytest.mark.parametrize("name", ["dla60", "dla60_res2net", "dla60_res2next"])
def test_renamed_weights_give_timms_dla_features_to_the_bit(name):
    assert_parity(name, DLA(**dla.VARIANTS[name], out_features=FEATURES), (2, 3, 4, 5))


def assert_parity(name, ours, out_indices):
    recognises, rename = (is_dla, rename_dla) if "dla" in name else (is_res2net, rename_res2net)
    theirs = perturb_norms(timm.create_model(name)).double().eval()
    weights = theirs.state_dict()
    assert recognises(weights)
    ours = ours.double().eval()
    missing, unexpected = ours.load_state_dict(rename(weights), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, indices=out_indices, intermediates_only=True)
        found = ours(image)
    for feature, x in zip(FEATURES, expected, strict=True):
        assert torch.equal(found[feature], x), feature


def test_mmdetections_names_of_the_stem_are_known():
    official = perturb_norms(Res2Net(depth=26, deep_stem=True, avg_down=True)).state_dict()
    mmdet = {}
    stem = {"conv1_1": ("0", "1"), "conv1_2": ("3", "4"), "conv1_3": ("6", "7")}
    for name, value in official.items():
        part, _, last = name.removeprefix("stem.").partition(".")
        if part in stem:
            norm = last.startswith("norm.")
            name = f"stem.{stem[part][norm]}.{last.removeprefix('norm.')}"
        name = name.replace("convs.0.norm", "bns.0").replace("convs.1.norm", "bns.1")
        name = name.replace("convs.2.norm", "bns.2").replace("conv1.norm", "bn1")
        name = name.replace("conv3.norm", "bn3").replace("shortcut.norm", "downsample.2")
        name = name.replace("shortcut", "downsample.1")
        for i in range(4):
            name = name.replace(f"res{i + 2}.", f"layer{i + 1}.")
        mmdet[name] = value
    assert "stem.7.running_var" in mmdet
    assert is_res2net(mmdet)
    renamed = rename_res2net(mmdet)
    assert renamed.keys() == {n for n in official if not n.endswith("num_batches_tracked")}
    assert all(torch.equal(value, official[name]) for name, value in renamed.items())


def test_renaming_leaves_out_the_classifier_and_what_the_authors_dla_never_uses():
    weights = timm.create_model("dla60_res2net").state_dict()
    weights["level3.project.0.weight"] = torch.zeros(256, 128, 1, 1)
    weights["level4.tree1.project.1.bias"] = torch.zeros(512)
    names = rename_dla(weights)
    assert not any("fc" in name for name in names)
    assert names.keys() == rename_dla(timm.create_model("dla60_res2net").state_dict()).keys()
    assert "res3.0.tree1.project.weight" in names
    assert not any(
        name.startswith("fc")
        for name in rename_res2net(timm.create_model("res2next50").state_dict())
    )


@pytest.mark.parametrize("stride_in_1x1", [False, True])
@pytest.mark.parametrize(("groups", "width"), [(1, 64), (8, 4)])
def test_scale_1_is_detectron2s_resnet_bit_for_bit(groups, width, stride_in_1x1):
    keys = (
        "MODEL.RESNETS.NUM_GROUPS", groups, "MODEL.RESNETS.WIDTH_PER_GROUP", width,
        "MODEL.RESNETS.STRIDE_IN_1X1", stride_in_1x1, "MODEL.RESNETS.RES5_DILATION", 2,
    )  # fmt: skip
    theirs = build_resnet_backbone(backbone_config(*keys), ShapeSpec(channels=3))
    ours = build(
        "MODEL.BACKBONE.NAME", "build_res2net_backbone",
        "MODEL.RES2NET.SCALE", 1, "MODEL.RES2NET.BASE_WIDTH", 64, *keys,
    )  # fmt: skip
    perturb_norms(theirs)
    weights = {n.replace("conv2.", "convs.0."): v for n, v in theirs.state_dict().items()}
    ours.load_state_dict(weights, strict=True)
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected, found = theirs.eval()(image), ours.eval()(image)
    assert {n: (s.channels, s.stride) for n, s in ours.output_shape().items()} == {
        n: (s.channels, s.stride) for n, s in theirs.output_shape().items()
    }
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def plain_res2net_block(block, x, hierarchical, stride):
    """The formula of the paper with the authors' choice of the split passed on, in loops."""

    def conv(layer, x, **arguments):
        x = F.conv2d(x, layer.weight, **arguments)
        norm = layer.norm
        shape = (1, -1, 1, 1)
        x = (x - norm.running_mean.view(shape)) / torch.sqrt(norm.running_var.view(shape) + 1e-5)
        return x * norm.weight.view(shape) + norm.bias.view(shape)

    inner = conv(block.conv1, x).clamp(min=0)
    width = block.convs[0].weight.shape[1]
    number = inner.shape[1] // width
    ys = []
    for i in range(number - 1):
        xi = inner[:, i * width : (i + 1) * width]
        if hierarchical and i > 0:
            xi = xi + ys[i - 1]
        ys.append(conv(block.convs[i], xi, stride=stride, padding=1).clamp(min=0))
    last = inner[:, (number - 1) * width :]
    if not hierarchical:
        # zeros around, always divided by nine
        padded = F.pad(last, (1, 1, 1, 1))
        rows, columns = ys[0].shape[-2:]
        pooled = torch.zeros_like(ys[0])
        for r, c in itertools.product(range(rows), range(columns)):
            window = padded[:, :, r * stride : r * stride + 3, c * stride : c * stride + 3]
            pooled[:, :, r, c] = window.sum(dim=(2, 3)) / 9
        last = pooled
    out = conv(block.conv3, torch.cat([*ys, last], dim=1))
    shortcut = x if block.shortcut is None else conv(block.shortcut, x, stride=stride)
    return (out + shortcut).clamp(min=0)


@pytest.mark.parametrize(("hierarchical", "stride"), [(True, 1), (False, 1), (False, 2)])
@pytest.mark.parametrize("scale", [2, 4])
def test_a_block_is_the_papers_formula(scale, hierarchical, stride):
    out_channels = 12 if hierarchical else 24
    block = Res2NetBlock(
        12, out_channels, width=5, scale=scale, hierarchical=hierarchical, stride=stride
    )
    block = perturb_norms(block).double().eval()
    x = torch.randn(2, 12, 9, 8, dtype=torch.float64)
    expected = plain_res2net_block(block, x, hierarchical, stride)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def splits_after(block, x):
    """What the last convolution of `block` gets for `x`, one map a split."""
    seen = []
    handle = block.conv3.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        block.branch(x)
    handle.remove()
    return seen[0].split(block.width, dim=1)


@pytest.mark.parametrize("hierarchical", [True, False])
def test_what_a_split_sees(hierarchical):
    block = MultiScaleBranch(8, 8, width=2, scale=4, hierarchical=hierarchical, norm="")
    nn.init.zeros_(block.conv1.weight)
    # split 0 is a copy of the first two input channels, the others of the rest
    block.conv1.weight.data[:, :, 0, 0] = torch.eye(8)
    for conv in block.convs:
        conv.weight.data.abs_()
    x = torch.zeros(1, 8, 15, 15)
    impulse = x.clone()
    impulse[0, :2, 7, 7] = 1
    before, after = splits_after(block, x), splits_after(block, impulse)
    reach = [
        int((b - a).abs().sum(dim=(0, 1, 2)).gt(0).sum())
        for a, b in zip(before, after, strict=True)
    ]
    assert reach == ([3, 5, 7, 0] if hierarchical else [3, 0, 0, 0])


def test_a_block_has_one_convolution_fewer_than_splits_and_none_is_idle():
    network = Res2Net(depth=26, scale=8, base_width=8)
    assert all(len(b.convs) == 7 for stage in network.stages for b in stage)


def test_the_pool_of_stride_1_is_there_unless_mmdetections_weights_are_meant():
    ours, without = (
        Res2Net(depth=26, width_per_group=16, out_features=FEATURES, pool_stride_1=p).eval()
        for p in (True, False)
    )
    without.load_state_dict(ours.state_dict(), strict=True)
    assert [b.pooled for b in ours.res2] == [True, False]
    assert [b.pooled for b in without.res2] == [False, False]
    assert without.res3[0].pooled
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        with_pool, without_pool = ours(image), without(image)
    assert not torch.allclose(with_pool["res2"], without_pool["res2"], rtol=1e-2)


def test_zero_init_residual_starts_every_block_as_its_shortcut():
    network = Res2Net(depth=26, width_per_group=16, zero_init_residual=True).eval()
    x = torch.rand(1, 256, 8, 8)
    with torch.no_grad():
        assert torch.equal(network.res2[1](x), x)


def test_depth_26_has_the_size_of_a_resnet_18():
    with torch.device("meta"):
        ours = Res2Net(depth=26)
    resnet18 = build_resnet_backbone(
        backbone_config("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
        ShapeSpec(channels=3),
    )
    assert parameters(ours) == pytest.approx(parameters(resnet18), rel=0.3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.RESNETS.DEPTH", 18, r"DEPTH is 18; a Res2Net has one of \[26, 50, 101, 152\]"),
        ("MODEL.RES2NET.SCALE", 0, r"SCALE is 0; it must be 1 or more"),
        ("MODEL.RES2NET.BASE_WIDTH", 1, r"BASE_WIDTH = 1 of 64 leaves no channel"),
        ("MODEL.RESNETS.RES5_DILATION", 4, r"RES5_DILATION is 4; choose 1 or 2"),
        ("MODEL.RESNETS.OUT_FEATURES", ["res7"], r"OUT_FEATURES\) is \['res7'\]; choose.*'res5'"),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True], r"no deformable conv"),
        ("MODEL.RESNETS.NORM", "GN", r"GN.*32 groups"),
    ],
)
def test_what_res2net_cannot_be_is_refused_by_name(key, value, message):
    with pytest.raises(ValueError, match=message):
        build(*SMALL, key, value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.DLA.LEVELS", [1, 0, 1, 1], r"LEVELS is \[1, 0, 1, 1\].*at least one level"),
        ("MODEL.DLA.CHANNELS", [32, 64], r"CHANNELS \[32, 64\]; both have four entries"),
        ("MODEL.RESNETS.NUM_GROUPS", 5, r"NUM_GROUPS = 5 make no block of 32 channels"),
        ("MODEL.RESNETS.RES5_DILATION", 2, r"RES5_DILATION is 2; build_dla_backbone has no dil"),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True] * 4, r"build_dla_backbone has no deformable"),
    ],
)
def test_what_a_dla_cannot_be_is_refused_by_name(key, value, message):
    with pytest.raises(ConfigError, match=message):
        build(*SMALL_DLA, key, value)


def test_a_hierarchical_block_has_no_stride():
    with pytest.raises(ValueError, match="has stride 1; it is 2"):
        Res2NetBlock(8, 8, width=2, scale=4, hierarchical=True, stride=2)


CONFIGS = {
    "COCO/mask_rcnn_Res2Net_50_{}.yaml": "res2net50_26w_4s",
    "COCO/mask_rcnn_Res2Net_101_{}.yaml": "res2net101_26w_4s",
    "COCO/mask_rcnn_Res2Net_v1b_101_{}.yaml": "res2net101d",
    "Cityscapes/mask_rcnn_Res2Net_50_{}.yaml": "res2net50_26w_4s",
    "Cityscapes/mask_rcnn_Res2Net_101_{}.yaml": "res2net101_26w_4s",
    "MiniCity/mask_rcnn_Res2Net_26_{}_quick.yaml": None,
}


@pytest.mark.parametrize("neck", ["FPN", "DeepFuseFPN"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_configs_build_what_their_weights_fit(name, neck, repository):
    file = name.format(neck)
    cfg = load_config(str(repository / "configs" / file), ["MODEL.DEVICE", "cpu"])
    assert f"output/{file.removesuffix('.yaml')}" == cfg.OUTPUT_DIR
    with torch.device("meta"):
        backbone = build_backbone(cfg, ShapeSpec(channels=3))
    assert type(backbone).__name__ == neck
    # strides are in the 3x3 convolutions, by the name of the network or by the key
    assert backbone.bottom_up.res3[0].conv1.stride == (1, 1)
    found = {n: v.shape for n, v in backbone.bottom_up.state_dict().items()}
    if CONFIGS[name] is None:
        assert cfg.MODEL.WEIGHTS == ""
        return
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    with torch.device("meta"):
        weights = rename_res2net(timm.create_model(CONFIGS[name]).state_dict())
    assert {n: v.shape for n, v in weights.items()} == found
