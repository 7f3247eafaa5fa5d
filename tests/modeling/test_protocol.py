"""What networks say of themselves: stages, networks inside, and how they are run and fused."""

import pytest
import torch
from backbone_suite import build
from detectron2 import modeling
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import MViT, ViT
from detectron2.modeling.backbone.swin import SwinTransformer
from torch import nn

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.backbone import FishNetBackbone
from deepfuse_d2.modeling.backbone.protocol import (
    children_backbones,
    freeze_stages,
    networks_of,
    stages_of,
)
from deepfuse_d2.modeling.neck import NECK_REGISTRY
from deepfuse_d2.modeling.neck.fpn import FPN, fuse_features

RESNET_18 = ("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
MOBILENET = ("MODEL.BACKBONE.NAME", "build_mobilenet_v2_backbone")
TWO_SCALE = (
    "MODEL.BACKBONE.NAME", "build_two_scale_backbone",
    "MODEL.TWO_SCALE.BOTTOM_UP", "build_mobilenet_v2_backbone",
)  # fmt: skip
NECK = ("MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.NECK.OUT_CHANNELS", 16)
PLAIN = ["stem", "res2", "res3", "res4", "res5"]


def resnet(name="build_resnet_backbone"):
    return build("MODEL.BACKBONE.NAME", name, *RESNET_18)


def timm():
    pytest.importorskip("timm")
    return build("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "convnext_atto")


@pytest.mark.parametrize(
    ("make", "names", "depths"),
    [
        (resnet, PLAIN, [1, 2, 3, 4, 5]),
        (lambda: resnet("build_deepfuse_resnet_backbone"), PLAIN, [1, 2, 3, 4, 5]),
        (
            lambda: build(
                "MODEL.BACKBONE.NAME", "build_res2net_backbone", "MODEL.RESNETS.DEPTH", 26
            ),
            PLAIN,
            [1, 2, 3, 4, 5],
        ),
        (
            lambda: build(*MOBILENET),
            ["stem", "res1", "res2", "res3", "res4a", "res4", "res5a", "res5"],
            [1, 1, 2, 3, 4, 4, 5, 5],
        ),
        (
            lambda: FishNetBackbone([1] * 10, [1] * 6, width=16, out_norm_act="BN"),
            ["stem", *["res2"] * 7, "res3", "res4", "res5"],
            list(range(1, 12)),
        ),
        (timm, PLAIN, [1, 2, 3, 4, 5]),
        (
            lambda: SwinTransformer(embed_dim=8, depths=(1, 1), num_heads=(1, 1), out_indices=(1,)),
            ["stem", "p0", "p1"],
            [1, 2, 3],
        ),
        (
            lambda: ViT(img_size=32, embed_dim=8, depth=2, num_heads=1),
            ["stem", "blocks.0", "blocks.1"],
            [1, 2, 3],
        ),
        (
            lambda: MViT(img_size=64, embed_dim=8, depth=4, last_block_indexes=(0, 1, 2, 3)),
            ["stem", *(f"blocks.{i}" for i in range(4))],
            [1, 2, 3, 4, 5],
        ),
        (lambda: Unknown(), ["stem"], [1]),
    ],
)
def test_every_parameter_that_learns_belongs_to_one_stage(make, names, depths):
    network = make()
    stages = stages_of(network)
    assert [stage.name for stage in stages] == names
    assert [stage.depth for stage in stages] == depths
    found = [id(p) for stage in stages for p in stage.parameters()]
    learning = [id(p) for p in network.parameters() if p.requires_grad]
    assert sorted(found) == sorted(learning)


class Unknown(modeling.Backbone):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, image):
        return {"x": self.conv(image)}


def test_wrappers_name_the_networks_inside_whatever_their_nesting():
    network = build(*TWO_SCALE)
    assert list(networks_of(network)) == ["bottom_up", "half_scale"]
    neck = build(
        *NECK, "MODEL.NECK.BOTTOM_UP", "build_two_scale_backbone", *TWO_SCALE[2:],
        "MODEL.NECK.IN_FEATURES", ["res2", "res3", "half_res3"],
    )  # fmt: skip
    assert list(networks_of(neck)) == ["bottom_up.bottom_up", "bottom_up.half_scale"]
    for path, inner in networks_of(neck).items():
        assert neck.get_submodule(path) is inner
    assert [tuple(f.shape[2:]) for f in neck(torch.randn(1, 3, 64, 96)).values()] == [
        (16, 24), (8, 12), (4, 6), (2, 3),
    ]  # fmt: skip
    alone = resnet()
    assert networks_of(alone) == {"": alone}
    assert children_backbones(alone) == {}


def test_a_wrapper_below_a_neck_must_be_told_what_is_inside():
    with pytest.raises(ConfigError, match=r"is no bottom-up network; .*MODEL.TWO_SCALE.BOTTOM_UP"):
        build(*NECK, "MODEL.NECK.BOTTOM_UP", "build_two_scale_backbone")


def test_frozen_stages_keep_weights_and_statistics():
    network = build(*MOBILENET)
    freeze_stages(network, 4)
    learning = {n.split(".")[0] for n, p in network.named_parameters() if p.requires_grad}
    assert learning == {"res5a", "res5"}
    assert isinstance(network.stem.conv1.norm, FrozenBatchNorm2d)
    assert isinstance(network.res4a[0].conv1.norm, FrozenBatchNorm2d)
    assert isinstance(network.res5[0].conv1.norm, nn.BatchNorm2d)


@pytest.mark.parametrize("name", sorted(name for name, _ in NECK_REGISTRY))
def test_a_neck_fuses_any_features_of_its_names(name):
    neck = build(
        *NECK, *RESNET_18, "MODEL.NECK.BOTTOM_UP", "build_resnet_backbone", "MODEL.NECK.NAME", name
    ).eval()
    image = torch.randn(1, 3, 64, 96)
    features = neck.bottom_up(image)
    for level, expected in neck(image).items():
        assert torch.equal(neck.fuse(features)[level], expected), level
    others = {name: torch.randn(2, *f.shape[1:]) for name, f in features.items()}
    fused = neck.fuse(others)
    assert {n: f.shape[2:] for n, f in fused.items()} == {
        n: f.shape[2:] for n, f in neck(image).items()
    }
    assert all(f.shape[:2] == (2, 16) for f in fused.values())


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
@pytest.mark.parametrize("top", [True, False])
def test_fpn_of_the_registry_is_detectron2s_bit_for_bit(fuse_type, top):
    bottom_up = resnet().eval()
    names = ["res2", "res3", "res4", "res5"]
    arguments = {
        "norm": "GN",
        "fuse_type": fuse_type,
        "top_block": modeling.backbone.fpn.LastLevelMaxPool() if top else None,
    }
    theirs = modeling.FPN(bottom_up, names, 32, **arguments).eval()
    ours = FPN(bottom_up, names, 32, **arguments).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image = torch.randn(1, 3, 64, 96)
    found, again = ours(image), fuse_features(theirs, bottom_up(image))
    for name, expected in theirs(image).items():
        assert torch.equal(found[name], expected), name
        assert torch.equal(again[name], expected), name
