"""FishNet: the suite of every backbone, the published counts, and a second implementation."""

import pytest
import torch
import torch.nn.functional as F
from backbone_suite import BackboneSuite, build, perturb_norms
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from fishnet_reference import random_state, reference
from torch import nn

from deepfuse_d2.checkpoint.sources.fishnet_names import rename_fishnet
from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.backbone import Fish, FishNet, FishNetBackbone
from deepfuse_d2.modeling.backbone.fishnet import VARIANTS
from deepfuse_d2.modeling.backbone.fishnet_blocks import channel_reduction

SMALL = (
    "MODEL.BACKBONE.NAME", "build_fishnet_backbone",
    "MODEL.FISHNET.WIDTH", 16,
    "MODEL.FISHNET.NUM_BLOCKS", [1] * 10,
    "MODEL.FISHNET.NUM_TRANSFER_BLOCKS", [1] * 6,
    "MODEL.FISHNET.NORM", "BN",
)  # fmt: skip
ONES = ([1] * 10, [1] * 6)


class FishNetSuite(BackboneSuite):
    out_features_key = "MODEL.FISHNET.OUT_FEATURES"
    # every reader of the bridge's score starts with a batch norm, which removes its bias
    without_gradient = ("stages.3.conv2.bias",)

    def frozen_features(self, freeze_at):
        """2..4 freeze the tail; the body and the head learn until all is frozen."""
        return set(self.features) if freeze_at == 5 else set()

    def test_the_norm_of_the_config_is_the_norm_of_the_network(self):
        network = self.build("MODEL.FISHNET.NORM", "FrozenBN", "MODEL.FISHNET.OUT_NORM_ACT", "")
        assert any(isinstance(m, FrozenBatchNorm2d) for m in network.modules())
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())


class TestFishNet(FishNetSuite):
    overrides = SMALL


class TestFishNetBodyWithNormsOnItsFeatures(FishNetSuite):
    overrides = (*SMALL, "MODEL.FISHNET.TAPS", "body", "MODEL.FISHNET.OUT_NORM_ACT", "BN")


def meta_fish(depth):
    """Parameters have shapes and no memory."""
    with torch.device("meta"):
        return FishNet(depth)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


# Depth: classifier form, dense form, stem, stages 0..2; score and gate and all of stage 3;
# (main, transfer) of stages 4..9; bottlenecks, convolutions, entries of the state dict
PUBLISHED = {
    99: (
        16_628_904, 13_335_296, 28_768, (41_728, 165_376, 1_778_688),
        (132_608 + 263_168, 51_744, 1_600_544),
        ((280_064, 70_400), (195_456, 17_792), (87_296, 4_544),
         (109_760, 280_064), (1_475_968, 628_992), (5_449_600, 1_120_256)),
        29, 100, 599,
    ),
    150: (
        24_959_400, 21_665_792, 28_768, (41_728, 306_176, 2_338_816),
        (132_608 + 263_168, 51_744, 2_160_672),
        ((560_128, 140_800), (353_280, 35_584), (157_696, 9_088),
         (219_520, 560_128), (1_475_968, 1_257_984), (10_899_200, 1_120_256)),
        46, 151, 905,
    ),
    201: (
        44_584_552, 41_290_944, 28_768, (59_520, 306_176, 3_459_072),
        (132_608 + 263_168, 51_744, 2_160_672),
        ((560_128, 140_800), (353_280, 35_584), (157_696, 9_088),
         (219_520, 560_128), (2_213_952, 1_257_984), (27_248_000, 2_520_576)),
        63, 202, 1211,
    ),
}  # fmt: skip


@pytest.mark.parametrize("depth", PUBLISHED)
def test_every_part_has_as_many_parameters_as_the_public_network(depth):
    whole, dense, stem, tail, bridge, rest, bottlenecks, convolutions, entries = PUBLISHED[depth]
    network = meta_fish(depth)
    stages = network.fish.stages
    assert count(network) == whole
    assert count(network.fish) == dense
    assert count(network.classifier) == whole - dense == 3_293_608
    assert count(network.fish.stem) == stem
    assert tuple(count(stage) for stage in stages[:3]) == tail
    score = count(stages[3].norm, stages[3].conv1, stages[3].conv2)
    assert (score, count(stages[3].gate), count(stages[3])) == bridge
    assert tuple((count(s.main), count(s.transfer)) for s in stages[4:]) == rest
    blocks = [m for m in network.modules() if type(m).__name__ == "PreActBottleneck"]
    assert len(blocks) == bottlenecks
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == convolutions
    assert len(network.state_dict()) == entries
    with torch.device("meta"):
        assert count(FishNetBackbone(*VARIANTS[depth], norm="BN")) == dense


def test_the_config_chooses_the_published_depths_and_fishnet_150_is_the_default():
    name = ("MODEL.BACKBONE.NAME", "build_fishnet_backbone", "MODEL.FISHNET.NORM", "BN")
    with torch.device("meta"):
        assert count(build(*name)) == 21_665_792
        assert count(build(*name, "MODEL.FISHNET.DEPTH", 99)) == 13_335_296


@pytest.mark.parametrize("depth", PUBLISHED)
def test_features_and_logits_equal_a_second_implementation_of_the_stage_table(depth):
    state = random_state(depth)
    assert len(state) == PUBLISHED[depth][-1]
    network = meta_fish(depth).to_empty(device="cpu").double().eval()
    network.load_state_dict(rename_fishnet(state, classifier=True), strict=True)
    # where sides are no multiples of 32, the reference rounds up and crops
    for size in ((64, 96), (70, 101)):
        image = torch.randn(1, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            expected, logits = reference(image, state, depth)
            found = [*network.fish(image), network(image)]
        names = [*(f"f{i}" for i in range(11)), "logits"]
        differences = {
            name: (a - b).abs().max().item()
            for name, a, b in zip(names, [*expected, logits], found, strict=True)
        }
        assert max(differences.values()) < 1e-12, differences
        # or there would be nothing to compare
        assert all(feature.std() > 0.1 for feature in expected)


def test_features_have_the_published_channels_and_strides():
    fish = Fish(*ONES).eval()
    with torch.no_grad():
        found = [tuple(f.shape[1:]) for f in fish(torch.randn(1, 3, 128, 256))]
    strides = (4, 8, 16, 32, 32, 16, 8, 4, 8, 16, 32)
    channels = (64, 128, 256, 512, 512, 768, 512, 320, 832, 1600, 2112)
    assert fish.strides == list(strides)
    assert found == [(c, 128 // s, 256 // s) for c, s in zip(channels, strides, strict=True)]


def test_taps_give_the_maps_of_the_head_or_of_the_body():
    head = perturb_norms(build(*SMALL)).eval()
    body = build(*SMALL, "MODEL.FISHNET.TAPS", "body").eval()
    missing, unexpected = body.load_state_dict(head.state_dict(), strict=False)
    assert not missing
    assert {name.split(".")[2] for name in unexpected} == {"7", "8", "9"}
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = head.fish(image)
        for network, indices in ((head, (7, 8, 9, 10)), (body, (7, 6, 5, 4))):
            for found, index in zip(network(image).values(), indices, strict=True):
                assert torch.equal(found, features[index])


@pytest.mark.parametrize(
    ("taps", "features", "stages"),
    [("head", ["res2"], 7), ("head", ["res4"], 9), ("body", ["res2"], 7), ("body", ["res3"], 6)],
)
def test_stages_after_the_last_feature_asked_for_are_not_built(taps, features, stages):
    network = build(*SMALL, "MODEL.FISHNET.TAPS", taps, "MODEL.FISHNET.OUT_FEATURES", features)
    assert len(network.fish.stages) == stages


def test_channels_are_reduced_by_sums_of_neighbours():
    x = torch.arange(8.0).reshape(1, 8, 1, 1)
    assert channel_reduction(x, 2).flatten().tolist() == [1, 5, 9, 13]
    assert channel_reduction(x, 4).flatten().tolist() == [6, 22]
    assert channel_reduction(x, 1) is x


def test_only_main_paths_of_stages_5_and_6_are_dilated():
    dilated = {
        name.rsplit(".", 2)[0]: module.dilation[0]
        for name, module in meta_fish(150).named_modules()
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1)
    }
    assert dilated == {"fish.stages.5.main": 2, "fish.stages.6.main": 4}


def test_only_first_blocks_of_the_tail_and_the_bridge_project_their_shortcut():
    projections = [
        name for name, _ in meta_fish(201).named_modules() if name.endswith("shortcut.conv")
    ]
    assert projections == [f"fish.stages.{i}.main.0.shortcut.conv" for i in range(4)]


def test_the_bridge_is_constant_where_its_residual_stack_gives_nothing():
    fish = perturb_norms(Fish(*ONES, width=16)).eval()
    last = fish.stages[3].main[-1]
    nn.init.zeros_(last.conv3.weight)
    nn.init.zeros_(last.shortcut.conv.weight)
    with torch.no_grad():
        f4 = fish(torch.randn(1, 3, 64, 128))[4]
    assert torch.equal(f4, f4[:, :, :1, :1].expand_as(f4))
    assert f4.min() > 0, "the gate itself, a sigmoid"
    assert f4.max() < 1


def test_the_head_passes_on_what_it_gets_where_its_branches_give_nothing():
    fish = perturb_norms(Fish(*VARIANTS[99], width=8)).eval()
    for stage in fish.stages[7:]:
        for block in (*stage.main, *stage.transfer):
            nn.init.zeros_(block.conv3.weight)
    with torch.no_grad():
        f = fish(torch.randn(1, 3, 64, 128))
    for stage, beside in ((7, 6), (8, 5), (9, 4)):
        assert torch.equal(f[stage + 1], torch.cat([F.max_pool2d(f[stage], 2), f[beside]], dim=1))


def test_res2_alone_does_not_reach_the_head():
    fish = Fish(*ONES, width=16)
    fish(torch.randn(2, 3, 64, 64))[7].square().mean().backward()
    for i, stage in enumerate(fish.stages):
        for name, parameter in stage.named_parameters():
            assert (parameter.grad is None) == (i >= 7), (i, name)


@pytest.mark.parametrize("freeze_at", range(5))
def test_freezing_goes_up_the_tail_and_leaves_the_body_and_the_head(freeze_at):
    fish = build(*SMALL, "MODEL.BACKBONE.FREEZE_AT", freeze_at).fish
    parts = [fish.stem, *fish.stages]
    for i, part in enumerate(parts):
        assert all(p.requires_grad == (i >= freeze_at) for p in part.parameters()), i
        frozen = any(isinstance(m, FrozenBatchNorm2d) for m in part.modules())
        live = any(isinstance(m, nn.BatchNorm2d) for m in part.modules())
        assert (frozen, live) == (i < freeze_at, i >= freeze_at), i


def test_checkpointed_stages_belong_to_the_first_feature_computed_after_them():
    def stages(*names, taps="head"):
        network = FishNetBackbone(*ONES, width=8, norm="BN", taps=taps, checkpoint_stages=names)
        return sorted(network.checkpointed)

    assert stages("res2") == list(range(7))
    assert stages("res4", "res5") == [8, 9]
    assert stages("res5", taps="body") == [0, 1, 2, 3]
    assert stages("res2", taps="body") == [6]


def test_group_norm_takes_groups_that_divide_every_width():
    with torch.device("meta"):
        network = FishNetBackbone(*VARIANTS[150], norm="GN", out_norm_act="GN")
    groups = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert len(groups) == 46 * 3 + 4 + 3 + 3 + 4, "bottlenecks, projections, bridge, stem, features"
    assert all(norm.num_channels // norm.num_groups == 16 for norm in groups)


def test_norms_on_features_normalise_and_rectify_the_raw_ones():
    network = build(*SMALL, "MODEL.FISHNET.OUT_NORM_ACT", "GN").eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        raw, found = network.fish(image), network(image)
    for index, (name, feature) in enumerate(found.items(), start=7):
        norm = network.out_norms[name]
        assert (norm.num_groups, norm.num_channels) == (raw[index].shape[1] // 4, feature.shape[1])
        torch.testing.assert_close(feature, torch.relu(norm(raw[index])))


def test_convolutions_start_with_hes_spread_over_their_outputs():
    fish = Fish(*VARIANTS[99])
    for name, module in fish.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            expected = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize(("width", "warnings"), [(16, 1), (32, 0)])
def test_a_width_whose_gradients_torch_gets_wrong_is_warned_of(width, warnings, caplog):
    build(
        *SMALL, "MODEL.FISHNET.WIDTH", width, "DEEPFUSE_D2.MODEL.CHANNELS_LAST", True,
        "SOLVER.AMP.ENABLED", True, "DEEPFUSE_D2.SOLVER.AMP.DTYPE", "bfloat16",
    )  # fmt: skip
    found = [r.getMessage() for r in caplog.records if "wrong gradients" in r.getMessage()]
    assert len(found) == warnings
    assert all("Choose a multiple of 32" in message for message in found)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DEPTH", 50, r"DEPTH = 50 is unknown; choose one of \[99, 150, 201\]"),
        ("WIDTH", 10, "WIDTH is 10; it must be a positive multiple of 4"),
        ("WIDTH", 0, "WIDTH is 0; it must be a positive multiple of 4"),
        ("NUM_BLOCKS", [1, 2], r"NUM_BLOCKS is \[1, 2\]; it must be 10 numbers.*FishNet-150"),
        ("NUM_TRANSFER_BLOCKS", [0] * 6, r"NUM_TRANSFER_BLOCKS is \[0.*6 numbers.*2, 2, 2, 4\]"),
        ("NORM", "", 'NORM is ""; a pre-activated network does not train without a norm'),
        ("NORM", "XN", 'norm "XN" is unknown; choose one of'),
        ("TAPS", "fins", 'TAPS = "fins" is unknown; choose "head" or "body"'),
        ("OUT_FEATURES", ["res2", "res6"], r"OUT_FEATURES is \['res2', 'res6'\]; give one or"),
        ("OUT_FEATURES", [], r"OUT_FEATURES is \[\]; give one or more of \['res2'"),
    ],
)
def test_a_value_that_makes_no_fishnet_is_answered_with_the_allowed_ones(key, value, message):
    with pytest.raises(ValueError, match=message):
        build("MODEL.BACKBONE.NAME", "build_fishnet_backbone", f"MODEL.FISHNET.{key}", value)


def test_an_unknown_depth_of_the_classifier_is_an_error_of_the_user():
    with pytest.raises(ConfigError, match=r"choose one of \[99, 150, 201\]"):
        FishNet(152)


CONFIGS = (
    "COCO/mask_rcnn_FishNet_150_{}.yaml",
    "Cityscapes/mask_rcnn_FishNet_150_{}.yaml",
    "MiniCity/mask_rcnn_FishNet_tiny_{}_quick.yaml",
)


@pytest.mark.parametrize("neck", ["FPN", "DeepFuseFPN"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_configs_build_what_their_weights_fit(name, neck, repository):
    file = name.format(neck)
    cfg = load_config(str(repository / "configs" / file), ["MODEL.DEVICE", "cpu"])
    assert f"output/{file.removesuffix('.yaml')}" == cfg.OUTPUT_DIR
    with torch.device("meta"):
        backbone = build_backbone(cfg, ShapeSpec(channels=3))
    assert type(backbone).__name__ == neck
    network = backbone.bottom_up
    assert isinstance(network, FishNetBackbone)
    assert list(network.out_norms) == ["res2", "res3", "res4", "res5"]
    if "tiny" in name:
        assert cfg.MODEL.WEIGHTS == ""
        assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
        return
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    weights = rename_fishnet(random_state(150))
    found = {n: v.shape for n, v in network.state_dict().items() if n.startswith("fish.")}
    found = {n: shape for n, shape in found.items() if not n.endswith("num_batches_tracked")}
    assert {n: v.shape for n, v in weights.items()} == found
