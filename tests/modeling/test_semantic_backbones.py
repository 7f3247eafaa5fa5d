"""Bottom-up networks of the semantic heads: rearranged ResNet, MobileNet-v2, two scales."""

import pytest
import torch
import torch.nn.functional as F
from backbone_suite import BackboneSuite, build, perturb_norms
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock

from deepfuse_d2.errors import ConfigError

REARRANGED = ("MODEL.BACKBONE.NAME", "build_rearranged_resnet_backbone")
SMALL = (
    *REARRANGED, "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
    "MODEL.EXFUSE.STAGE_BLOCKS", [2, 2, 1, 1],
)  # fmt: skip
MOBILENET = ("MODEL.BACKBONE.NAME", "build_mobilenet_v2_backbone")
TWO_SCALE = (
    "MODEL.BACKBONE.NAME", "build_two_scale_backbone",
    "MODEL.NECK.BOTTOM_UP", "build_mobilenet_v2_backbone",
)  # fmt: skip


class TestRearrangedResNet(BackboneSuite):
    overrides = SMALL


class TestMobileNetV2(BackboneSuite):
    overrides = MOBILENET
    checkpoint_stages = ()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("groups", "width", "standard", "rearranged"),
    [
        (1, 64, 42_500_160, 50_644_800),
        (32, 4, 42_128_704, 50_332_480),
        (32, 8, 86_742_336, 104_229_696),
        (64, 4, 81_406_272, 97_815_360),
    ],
)
def test_rearrangement_has_the_expected_parameters(groups, width, standard, rearranged):
    found = []
    for blocks in ([3, 4, 23, 3], [8, 8, 9, 8]):
        with torch.device("meta"):
            network = build(
                *REARRANGED, "MODEL.RESNETS.DEPTH", 101, "MODEL.EXFUSE.STAGE_BLOCKS", blocks,
                "MODEL.RESNETS.NUM_GROUPS", groups, "MODEL.RESNETS.WIDTH_PER_GROUP", width,
            )  # fmt: skip
        found.append(count(network))
    assert found == [standard, rearranged]


def conv_macs_and_depth(network):
    """Multiply-adds of all convolutions at 224 x 224, and convolutions on the way to each stage."""
    from detectron2.layers import Conv2d

    macs, depth, depths = 0, 0, []
    convs = []

    def note(module, inputs, output):
        convs.append((module, output.shape))

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, Conv2d)]
    network(torch.empty(1, 3, 224, 224, device="meta"))
    for hook in hooks:
        hook.remove()
    for module, shape in convs:
        macs += module.weight.numel() * shape[-2] * shape[-1]
    depth = 1
    for stage in network.stages:
        depth += 3 * len(stage)
        depths.append(depth)
    return macs, depths


def test_rearrangement_moves_depth_to_early_stages_at_the_same_cost():
    results = []
    for blocks in ([3, 4, 23, 3], [8, 8, 9, 8]):
        with torch.device("meta"):
            network = build(
                *REARRANGED, "MODEL.RESNETS.DEPTH", 101, "MODEL.EXFUSE.STAGE_BLOCKS", blocks,
                "MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4,
            ).eval()  # fmt: skip
        results.append(conv_macs_and_depth(network))
    (standard, standard_depths), (rearranged, depths) = results
    assert standard == rearranged
    assert standard / 1e9 == pytest.approx(7.9679, abs=1e-4)
    assert standard_depths == [10, 22, 91, 100]
    assert depths == [25, 49, 76, 100]


@pytest.mark.parametrize(
    ("depth", "out", "block"), [(34, 64, BasicBlock), (101, 256, BottleneckBlock)]
)
def test_with_standard_blocks_it_is_detectron2s_resnet(depth, out, block):
    pairs = ("MODEL.RESNETS.DEPTH", depth, "MODEL.RESNETS.RES2_OUT_CHANNELS", out)
    blocks = {34: [3, 4, 6, 3], 101: [3, 4, 23, 3]}[depth]
    with torch.device("meta"):
        ours = build(*REARRANGED, *pairs, "MODEL.EXFUSE.STAGE_BLOCKS", blocks)
        theirs = build("MODEL.BACKBONE.NAME", "build_resnet_backbone", *pairs)
    assert all(isinstance(b, block) for stage in ours.stages for b in stage)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert shapes == {name: value.shape for name, value in ours.state_dict().items()}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("MODEL.EXFUSE.STAGE_BLOCKS", [3, 4]), r"STAGE_BLOCKS is \[3, 4\]; it has four entries"),
        (("MODEL.EXFUSE.STAGE_BLOCKS", [3, 0, 1, 1]), r"1 or more each"),
        (("MODEL.RESNETS.RES5_DILATION", 2), r"RES5_DILATION is 2.*no dilation"),
        (("MODEL.RESNETS.RES2_OUT_CHANNELS", 256), r"RES2_OUT_CHANNELS must be 64"),
    ],
)
def test_a_rearrangement_that_cannot_be_built_is_refused(pairs, message):
    with pytest.raises(ConfigError, match=message):
        build(*SMALL, *pairs)


def test_mobilenet_is_timms_but_for_the_extra_expansion():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model("mobilenetv2_100", num_classes=0)
        ours = build(*MOBILENET)
    # timm leaves out the 32 -> 32 expansion with its norm, and has a head of 1280 channels
    head = 320 * 1280 + 2 * 1280
    assert count(ours) == count(theirs) - head + 32 * 32 + 2 * 32


def test_mobilenet_gives_both_features_of_strides_16_and_32():
    names = ["res2", "res3", "res4a", "res4", "res5a", "res5"]
    network = build(*MOBILENET, "MODEL.RESNETS.OUT_FEATURES", names).eval()
    shapes = {name: (s.channels, s.stride) for name, s in network.output_shape().items()}
    assert shapes == {
        "res2": (24, 4), "res3": (32, 8), "res4a": (64, 16), "res4": (96, 16),
        "res5a": (160, 32), "res5": (320, 32),
    }  # fmt: skip
    for name, feature in network(torch.randn(1, 3, 65, 97)).items():
        channels, stride = shapes[name]
        assert feature.shape == (1, channels, -(-65 // stride), -(-97 // stride))


def test_mobilenet_names_its_features_where_another_is_asked_for():
    with pytest.raises(ConfigError, match=r"OUT_FEATURES is \['res9'\].*res4a"):
        build(*MOBILENET, "MODEL.RESNETS.OUT_FEATURES", ["res9"])


@pytest.mark.parametrize("size", [(64, 96), (70, 101)])
def test_two_scales_give_the_features_of_the_image_and_of_its_half(size):
    network = perturb_norms(build(*TWO_SCALE)).eval()
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        outputs = network(image)
        full = network.bottom_up(image)
        half = network.half_scale(
            F.interpolate(
                image, size=[-(-side // 2) for side in size], mode="bilinear", align_corners=False
            )
        )
    shapes = network.output_shape()
    assert set(outputs) == set(shapes)
    for name, feature in outputs.items():
        sides = tuple(-(-side // shapes[name].stride) for side in size)
        assert feature.shape == (2, shapes[name].channels, *sides), name
        source = half[name.removeprefix("half_")] if "half" in name else full[name]
        assert torch.equal(feature, source), name
    assert shapes["half_res4"].stride == shapes["res5"].stride == 32


def test_weights_of_two_scales_keep_apart():
    other = build(*TWO_SCALE)
    copy = build(*TWO_SCALE)
    copy.load_state_dict(other.state_dict(), strict=True)
    for name, value in other.state_dict().items():
        assert torch.equal(copy.state_dict()[name], value), name


def test_two_scales_need_a_bottom_up_network():
    with pytest.raises(ConfigError, match=r"build_neck_backbone.*is no bottom-up network"):
        build(*TWO_SCALE[:3], "build_neck_backbone")
