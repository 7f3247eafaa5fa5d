"""detectron2's ResNet with DeepFuse: the suite of every backbone, and its particular promises."""

import re

import pytest
import torch
from backbone_suite import BackboneSuite, backbone_config, build, loss_of, perturb_norms
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import FPN, build_backbone, build_model
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.layers import MERGES, UNITS, FuseSettings
from deepfuse_d2.modeling.backbone import DeepFuseResNet

RESNET_18 = ("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
DEEPFUSE = (*RESNET_18, "MODEL.BACKBONE.NAME", "build_deepfuse_resnet_backbone")
STAGES = "MODEL.DEEPFUSE.BACKBONE_STAGES"
DIRECTION = "MODEL.DEEPFUSE.BACKBONE_DIRECTION"
ALL = ["res2", "res3", "res4", "res5"]


class TestDeepFuseResNet(BackboneSuite):
    # the suite asks for res3 and res4 alone, too; then there is no res5 to fuse into
    overrides = (
        *DEEPFUSE, STAGES, ["res3", "res4"], DIRECTION, "both", "MODEL.DEEPFUSE.MERGE", "gated",
        "MODEL.DEEPFUSE.UNIT", "multi_scale", "MODEL.DEEPFUSE.NORM", "FrozenBN",
        "MODEL.DEEPFUSE.ALIGN_NORM", "FrozenBN", "MODEL.DEEPFUSE.DOWNSAMPLE", "conv",
        "MODEL.DEEPFUSE.UPSAMPLE", "bilinear",
    )  # fmt: skip
    # detectron2's part is frozen alone; see the test of freezing below
    freeze_all_at = 0


def plain(*overrides):
    return build_resnet_backbone(backbone_config(*RESNET_18, *overrides), ShapeSpec(channels=3))


def with_weights_of(source, network):
    """`network` after loading `source`, of which every tensor must have a place."""
    missing, unexpected = network.load_state_dict(source.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(name.startswith(("fuse_low_to_high.", "fuse_high_to_low.")) for name in missing)
    return network


WHERE = [
    (["res3", "res4", "res5"], "low_to_high"),
    (["res2", "res3", "res4"], "high_to_low"),
    (ALL, "both"),
]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("stages", "direction"), WHERE)
def test_with_the_weights_of_the_plain_network_it_gives_its_features_bit_for_bit(
    stages, direction, mode
):
    expected_network = perturb_norms(plain())
    network = with_weights_of(
        expected_network, build(*DEEPFUSE, STAGES, stages, DIRECTION, direction)
    )
    image = torch.randn(2, 3, 70, 101)
    # twice: in training, the second pass sees running statistics of the first
    for _ in range(2):
        expected = expected_network.train(mode == "train")(image)
        found = network.train(mode == "train")(image)
        assert list(found) == list(expected)
        for name in expected:
            assert torch.equal(found[name], expected[name]), name
    after = network.state_dict()
    for name, value in expected_network.state_dict().items():
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize(
    ("merge", "unit", "depth"),
    [
        *((m, "bottleneck", 1) for m in MERGES),
        *(("sum", u, 2) for u in UNITS),
        ("sum", "residual", 0),
    ],
)
def test_every_member_of_the_family_starts_as_the_plain_network_and_leaves_it(merge, unit, depth):
    expected_network = plain().eval()
    network = with_weights_of(
        expected_network,
        build(
            *DEEPFUSE, STAGES, ["res5"], "MODEL.DEEPFUSE.MERGE", merge,
            "MODEL.DEEPFUSE.UNIT", unit, "MODEL.DEEPFUSE.DEPTH", depth,
        ),
    ).eval()  # fmt: skip
    image = torch.randn(1, 3, 64, 64)
    expected, found = expected_network(image), network(image)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name

    added = [p for name, p in network.named_parameters() if name.startswith("fuse_")]
    optimizer = torch.optim.SGD(added, lr=0.1)
    loss_of(found).backward()
    optimizer.step()
    assert not torch.equal(network(image)["res5"], expected["res5"])


@pytest.mark.parametrize(
    "options",
    [
        ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256),
        # ResNeXt, four groups of four
        ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
         "MODEL.RESNETS.NUM_GROUPS", 4, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
        # the last stage keeps stride 16
        ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
         "MODEL.RESNETS.RES5_DILATION", 2),
        ("MODEL.RESNETS.NORM", "GN"),
    ],
)  # fmt: skip
def test_resnet_50_resnext_dilation_and_norms_are_detectron2s(options):
    cfg = backbone_config(*RESNET_18, *options)
    expected_network = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    network = with_weights_of(
        expected_network, build(*DEEPFUSE, *options, STAGES, ALL, DIRECTION, "both")
    ).eval()
    assert network.output_shape() == expected_network.output_shape()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = expected_network(image), network(image)
        for name in expected:
            assert torch.equal(found[name], expected[name]), name
        nn.init.ones_(network.fuse_low_to_high["res5"].scale)
        assert not torch.equal(network(image)["res5"], expected["res5"])


def changed_features(network, insertion):
    """Features that differ once `insertion` contributes."""
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = network(image)
        nn.init.ones_(insertion.scale)
        after = network(image)
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_low_to_high_feeds_the_next_stage_and_high_to_low_changes_the_output_alone():
    network = build(*DEEPFUSE, STAGES, ALL, DIRECTION, "both").eval()
    assert list(network.fuse_low_to_high) == ["res3", "res4", "res5"]
    assert list(network.fuse_high_to_low) == ["res2", "res3", "res4"]
    high_to_low = network.fuse_high_to_low["res3"]
    assert changed_features(network, high_to_low) == {"res3"}
    nn.init.zeros_(high_to_low.scale)
    # the fused map of res3 is what res4 and res5 are computed from
    low_to_high = network.fuse_low_to_high["res3"]
    assert changed_features(network, low_to_high) == {"res3", "res4", "res5"}


def test_an_insertion_sees_every_earlier_or_later_stage():
    network = build(*DEEPFUSE, STAGES, ALL, DIRECTION, "both").eval()
    # target, then sources
    channels = [conv.in_channels for conv in network.fuse_low_to_high["res5"].align]
    assert channels == [512, 64, 128, 256]
    channels = [conv.in_channels for conv in network.fuse_high_to_low["res2"].align]
    assert channels == [64, 128, 256, 512]
    for insertions in (network.fuse_low_to_high, network.fuse_high_to_low):
        for name, fuse in insertions.items():
            assert {conv.out_channels for conv in fuse.align} == {
                network._out_feature_channels[name] // 4
            }


def test_high_to_low_hands_on_what_a_stage_has_got_from_later_ones():
    network = build(*DEEPFUSE, STAGES, ["res2", "res4"], DIRECTION, "high_to_low").eval()
    nn.init.ones_(network.fuse_high_to_low["res2"].scale)
    assert changed_features(network, network.fuse_high_to_low["res4"]) == {"res2", "res4"}


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_freezing_is_detectron2s_and_the_insertions_learn(freeze_at):
    pairs = ("MODEL.BACKBONE.FREEZE_AT", freeze_at)
    expected_network = plain(*pairs)
    network = build(*DEEPFUSE, *pairs, STAGES, ALL, DIRECTION, "both")
    found = {name: p.requires_grad for name, p in network.named_parameters()}
    for name, parameter in expected_network.named_parameters():
        assert found.pop(name) == parameter.requires_grad, name
    assert found
    assert all(found.values())
    for name, module in expected_network.named_modules():
        assert type(module) is type(network.get_submodule(name)) or name == ""
    if freeze_at == 5:
        assert any(isinstance(m, FrozenBatchNorm2d) for m in network.modules())
        for _ in range(2):
            network.zero_grad()
            loss_of(network(torch.randn(2, 3, 64, 64))).backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.01 * parameter.grad
        for name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == name.startswith("fuse_"), name


def detector_config(*overrides):
    cfg = backbone_config(
        *DEEPFUSE, "MODEL.META_ARCHITECTURE", "ProposalNetwork", STAGES, ALL, DIRECTION, "both",
        "MODEL.NECK.BOTTOM_UP", "build_deepfuse_resnet_backbone",
        "MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.NECK.OUT_CHANNELS", 32,
        "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128], [256]], *overrides,
    )  # fmt: skip
    return cfg


def torchvision_names(state):
    """detectron2's names of a ResNet-18 the other way round."""
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"^res(\d)", lambda m: f"layer{int(m[1]) - 1}", name)
        name = name.replace("stem.conv1.norm", "bn1").replace("stem.conv1", "conv1")
        name = re.sub(r"conv(\d)\.norm", r"bn\1", name)
        name = name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
        renamed[name] = value.clone()
    return renamed


@pytest.mark.parametrize("names", ["detectron2", "torchvision"])
def test_imagenet_weights_load_with_only_what_deepfuse_adds_missing(names, tmp_path):
    expected_network = perturb_norms(plain()).eval()
    state = expected_network.state_dict()
    path = tmp_path / "resnet18.pth"
    if names == "torchvision":
        renamed = torchvision_names(state)
        assert "layer4.0.downsample.1.running_var" in renamed
        torch.save(renamed, path)
        model = build_model(detector_config(
            "MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53],
            "MODEL.PIXEL_STD", [58.395, 57.12, 57.375], "INPUT.FORMAT", "RGB",
        ))  # fmt: skip
    else:
        # as detectron2's own ImageNet files: bottom-up names alone, matched by their endings
        torch.save({"model": state, "matching_heuristics": True, "__author__": "test"}, path)
        model = build_model(detector_config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    DeepFuseCheckpointer(model).load(str(path))

    bottom_up = model.backbone.bottom_up.eval()
    loaded = bottom_up.state_dict()
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(loaded[name], value), name
    for name, value in model.state_dict().items():
        if name.removeprefix("backbone.bottom_up.") not in state:
            assert torch.equal(value, before[name]), f"{name} was overwritten"
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = expected_network(image), bottom_up(image)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_it_is_built_from_python_without_a_config():
    stages = plain()
    network = DeepFuseResNet(
        stages.stem, [list(stage) for stage in stages.stages], ["res4", "res5"],
        fuse_stages=["res5"], settings=FuseSettings(merge="concat", unit="separable"),
    )  # fmt: skip
    assert list(network(torch.randn(1, 3, 64, 64))) == ["res4", "res5"]


def test_the_quick_config_trains_the_insertions_of_its_network(repository):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.merge_from_file(repository / "configs/MiniCity/mask_rcnn_R_18_DeepFuseResNet_quick.yaml")
    network = build_backbone(cfg, ShapeSpec(channels=3)).train()
    assert isinstance(network, FPN)
    insertions = {
        name: parameter
        for name, parameter in network.bottom_up.named_parameters()
        if name.startswith("fuse_")
    }
    assert len({name.split(".scale")[0] for name in insertions if "scale" in name}) == 6
    for _ in range(2):
        loss_of(network(torch.randn(2, 3, 64, 64))).backward()
        torch.optim.SGD(insertions.values(), lr=0.1).step()
    for name, parameter in insertions.items():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((DIRECTION, "up"), r'direction "up".*BACKBONE_DIRECTION\) is unknown.*low_to_high'),
        ((STAGES, []), r"name none; choose among \['res2'"),
        ((STAGES, ["res6"]), r"name \['res6'\], which this network does not have"),
        ((STAGES, ["res2"]), r'name res2, but "low_to_high" fuses earlier stages'),
        ((STAGES, ["res5"], DIRECTION, "high_to_low"), r'name res5, but "high_to_low" fuses later'),
        (
            ("MODEL.RESNETS.OUT_FEATURES", ["res3", "res5"], STAGES, ["res4"], DIRECTION, "both"),
            r"name \['res4'\], whose map \"both\" fuses for output, but the output is \['res3'",
        ),
        (
            ("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4"], STAGES, ["res5"]),
            r"it ends with res4, the last of MODEL.RESNETS.OUT_FEATURES",
        ),
        (("MODEL.DEEPFUSE.BACKBONE_REDUCTION", 3), "does not divide the 128 channels of res3"),
        (("MODEL.DEEPFUSE.BACKBONE_REDUCTION", 0), "BACKBONE_REDUCTION.* must be 1 or more"),
        (("MODEL.DEEPFUSE.UNIT", "wide"), 'unit "wide" is unknown; choose one of'),
        (("MODEL.DEEPFUSE.NORM", "GN"), "8 channels do not divide"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build(*DEEPFUSE, *overrides)
