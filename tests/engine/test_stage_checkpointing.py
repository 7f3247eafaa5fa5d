"""Stages of detectron2's own networks that are computed twice: same numbers, less memory."""

import copy

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

from deepfuse_d2.engine import Trainer, load_config
from deepfuse_d2.engine.speed.stage_checkpointing import CheckpointedStage, checkpoint_stages
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.backbone.protocol import networks_of


@BACKBONE_REGISTRY.register()
def build_regnet_for_tests(cfg, input_shape):
    return RegNet(
        stem_class=SimpleStem,
        stem_width=8,
        block_class=ResBottleneckBlock,
        depth=4,
        w_a=8,
        w_0=8,
        w_m=2,
        group_width=8,
        out_features=["s1", "s2"],
    )


def build(repository, tiny_opts, name, *overrides):
    config = str(repository / "configs/MiniCity" / name)
    torch.manual_seed(0)
    return Trainer.build_model(load_config(config, [*tiny_opts, *overrides])).train().double()


def learn(model, x):
    """Features, gradients, statistics after two passes, and bytes remembered for backward."""
    kept = []

    def note(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = model.backbone(x)
    sum(f.square().mean() for f in features.values()).backward()
    gradients = {n: p.grad for n, p in model.backbone.named_parameters() if p.grad is not None}
    return features, gradients, dict(model.backbone.named_buffers()), sum(kept)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_features_gradients_and_statistics_stay_and_less_is_remembered(repository, tiny_opts, norm):
    name = "mask_rcnn_R_18_FPN_quick.yaml"
    norm = ("MODEL.RESNETS.NORM", norm)
    plain = build(repository, tiny_opts, name, *norm)
    stages = ("DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES", "['res2', 'res4']")
    saving = build(repository, tiny_opts, name, *norm, *stages)
    kinds = {
        n: isinstance(m, CheckpointedStage) for n, m in saving.backbone.bottom_up.named_children()
    }
    assert [name for name, is_checkpointed in kinds.items() if is_checkpointed] == ["res2", "res4"]
    assert list(saving.state_dict()) == list(plain.state_dict())
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    *expected, usual = learn(plain, x)
    *found, less = learn(saving, x)
    assert less < 0.8 * usual
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, msg=key)


def test_networks_of_ours_do_it_themselves(repository, tiny_opts):
    opts = ("DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES", "['res3']")
    name = "mask_rcnn_Res2Net_26_FPN_quick.yaml"
    model = build(repository, tiny_opts, name, *opts)
    assert not any(isinstance(m, CheckpointedStage) for m in model.modules())
    assert model.backbone.bottom_up.checkpoint_stages == ("res3",)


def test_a_stage_that_is_not_there_is_answered_with_those_that_are(repository, tiny_opts):
    opts = ("DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES", "['res9']")
    message = r"names \['res9'\], which ResNet does not have.*\['stem', 'res2', .* 'res5'\]"
    with pytest.raises(ConfigError, match=message):
        build(repository, tiny_opts, "mask_rcnn_R_18_FPN_quick.yaml", *opts)


def test_without_the_key_nothing_changes(repository, tiny_opts):
    model = build(repository, tiny_opts, "mask_rcnn_R_18_FPN_quick.yaml")
    assert not any(isinstance(m, CheckpointedStage) for m in model.modules())


@pytest.mark.parametrize(
    ("backbone", "stages", "networks"),
    [
        (
            ("build_two_scale_backbone", "MODEL.TWO_SCALE.BOTTOM_UP", "build_resnet_backbone"),
            ["res2", "res3", "res4", "res5"],
            ["bottom_up", "half_scale"],
        ),
        (("build_mobilenet_v2_backbone",), ["stem", "res2", "res4a"], [""]),
        (("build_regnet_for_tests",), ["s1", "s2"], [""]),
        (("build_timm_backbone", "MODEL.TIMM.NAME", "resnet10t"), ["res3", "res4", "res5"], [""]),
    ],
    ids=["two scales", "MobileNet", "RegNet", "timm"],
)
def test_stages_of_every_kind_of_network_are_checkpointed(
    repository, tiny_opts, backbone, stages, networks
):
    if "build_timm_backbone" in backbone:
        pytest.importorskip("timm")
    config = str(repository / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml")
    opts = [
        *tiny_opts, "MODEL.BACKBONE.NAME", *backbone, "MODEL.RESNETS.NORM", "BN",
        "MODEL.BACKBONE.FREEZE_AT", 0, "DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES", str(stages),
    ]  # fmt: skip
    cfg = load_config(config, opts)
    plain, saving = torch.nn.Module(), torch.nn.Module()
    plain.backbone, saving.backbone = build_backbone(cfg).double(), build_backbone(cfg).double()
    checkpoint_stages(cfg, saving)
    saving.load_state_dict(plain.state_dict())
    found = networks_of(saving.backbone)
    assert list(found) == networks
    for network in found.values():
        checkpointed = [m for m in network.modules() if isinstance(m, CheckpointedStage)]
        assert len(checkpointed) == len(stages)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    *expected, usual = learn(plain.train(), x)
    *results, less = learn(saving.train(), x)
    assert less < 0.8 * usual
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, msg=key)


def test_a_checkpointed_model_can_be_copied(repository, tiny_opts):
    opts = ("DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES", "['res3']")
    model = build(repository, tiny_opts, "mask_rcnn_R_18_FPN_quick.yaml", *opts)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    copied = copy.deepcopy(model)
    for name, feature in model.backbone(x).items():
        assert torch.equal(copied.backbone(x)[name], feature)
