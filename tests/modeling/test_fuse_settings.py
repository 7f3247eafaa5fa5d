"""The settings of DeepFuse stand once, for yaml and python alike."""

import dataclasses

import pytest
from backbone_suite import build as build_backbone
from detectron2.layers import ShapeSpec
from neck_suite import build as build_neck
from torch import nn

from deepfuse_d2 import get_config
from deepfuse_d2.config.keys.deepfuse import FuseSettings, fuse_settings
from deepfuse_d2.layers import DeepFuse
from deepfuse_d2.modeling.sem_seg import DeepFuseSemSegHead

# every setting at another value than its default, in a combination that can be built
OTHERS = FuseSettings(
    merge="concat", unit="residual", depth=2, norm="BN", align_norm="GN", upsample="bilinear",
    downsample="avg_pool", alignment="flow", drop_path=0.25, zero_init=False,
)  # fmt: skip


def keys(settings):
    return [
        word
        for name, value in dataclasses.asdict(settings).items()
        for word in (f"MODEL.DEEPFUSE.{name.upper()}", value)
    ]


def test_the_defaults_of_the_config_are_those_of_python():
    assert fuse_settings(get_config("MiniCity/sem_seg_R_18_RefineNet")) == FuseSettings()


def test_every_key_reaches_its_setting():
    assert all(
        getattr(OTHERS, field.name) != field.default for field in dataclasses.fields(FuseSettings)
    )
    cfg = get_config("MiniCity/sem_seg_R_18_RefineNet", keys(OTHERS))
    assert fuse_settings(cfg) == OTHERS


def test_they_cannot_be_changed_in_place_and_an_unknown_one_is_named():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FuseSettings().depth = 3
    with pytest.raises(TypeError, match="depht"):
        DeepFuse([8, 8], 8, depht=3)
    with pytest.raises(TypeError, match="unit_norm"):
        FuseSettings(unit_norm="BN")


def test_single_settings_of_a_block_take_the_place_of_those_given_whole():
    fuse = DeepFuse([16, 16], 16, OTHERS, depth=1, align_norm="", drop_path=0.5)
    assert len(fuse.deepen.units) == 1
    assert fuse.drop_path.p == 0.5
    assert isinstance(fuse.deepen.units[0].conv1.norm, nn.BatchNorm2d)


def fusions_of(module):
    return [m for m in module.modules() if isinstance(m, DeepFuse)]


def test_necks_backbones_and_heads_hand_them_on_whole():
    opts = keys(OTHERS)
    neck = build_neck("MODEL.NECK.NAME", "DeepFuseFPN", *opts)
    # its fusions are narrow enough for no norm of 32 groups
    backbone = build_backbone(
        *opts, "MODEL.BACKBONE.NAME", "build_deepfuse_resnet_backbone",
        "MODEL.DEEPFUSE.ALIGN_NORM", "BN",
    )  # fmt: skip
    shapes = {f"res{i}": ShapeSpec(channels=8, stride=2**i) for i in (2, 3)}
    head = DeepFuseSemSegHead(shapes, num_classes=3, width=16, settings=OTHERS)
    for module in (neck, backbone, head):
        fusions = fusions_of(module)
        assert fusions
        for fuse in fusions:
            assert type(fuse.merge).__name__ == "ConcatMerge"
            assert [type(unit).__name__ for unit in fuse.deepen.units] == ["ResidualUnit"] * 2
            assert isinstance(fuse.deepen.units[0].conv1.norm, nn.BatchNorm2d)
            assert fuse.drop_path.p == 0.25
            assert fuse.scale.mean() == 1
