"""Optimizers: rates and decay by layer, and one operation for all parameters."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import ViT
from detectron2.modeling.backbone.swin import SwinTransformer
from torch import nn

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.engine.solver.optimizer import build_optimizer
from deepfuse_d2.errors import ConfigError


def config(*overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.SOLVER.BASE_LR = 1.0
    cfg.SOLVER.WEIGHT_DECAY = 0.1
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.1
    cfg.merge_from_list(list(overrides))
    return cfg


def tree(names):
    """A model with a parameter of each name; vectors where the name ends in "bias" or "gamma"."""
    model = nn.Module()
    for name in names:
        *path, last = name.split(".")
        module = model
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        shape = (3,) if last in ("bias", "gamma") else (3, 2)
        module.register_parameter(last, nn.Parameter(torch.randn(shape)))
    return model


def settings(optimizer, model, key):
    of = {id(p): group[key] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters()}


def resnet():
    return build_bottom_up("build_resnet_backbone")


def vit():
    return ViT(img_size=32, embed_dim=8, depth=3, num_heads=1, out_feature="x")


def swin():
    return SwinTransformer(embed_dim=8, depths=(2, 1), num_heads=(1, 1), out_indices=(0, 1))


def deepfuse_resnet():
    return build_bottom_up("build_deepfuse_resnet_backbone")


def mobilenet():
    return build_bottom_up("build_mobilenet_v2_backbone")


def two_scales():
    return build_bottom_up(
        "build_two_scale_backbone", "MODEL.TWO_SCALE.BOTTOM_UP", "build_mobilenet_v2_backbone"
    )


def build_bottom_up(name, *overrides):
    cfg = config(
        "MODEL.BACKBONE.NAME", name, "MODEL.RESNETS.DEPTH", 18, "MODEL.BACKBONE.FREEZE_AT", 0,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.NORM", "BN",
        "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"], *overrides,
    )  # fmt: skip
    return build_backbone(cfg)


POWERS = {
    "stem.conv1": 5, "res2.0.conv1": 4, "res3.0.conv1": 3, "res4.1.conv1": 2,
}  # fmt: skip
MOBILENET = {**POWERS, "res1.0.conv2": 5, "res4a.0.conv1": 2, "res5a.2.conv3": 1, "res5.0.conv1": 1}


@pytest.mark.parametrize(
    ("network", "powers"),
    [
        (resnet, {**POWERS, "res5.0.shortcut": 1}),
        (
            vit,
            {"pos_embed": 4, "patch_embed.proj": 4, "blocks.0.mlp.fc1": 3, "blocks.2.mlp.fc1": 1},
        ),
        (
            swin,
            {
                "patch_embed.proj": 3,
                "layers.0.blocks.1.mlp": 2,
                "layers.0.downsample": 1,
                "norm0": 2,
            },
        ),
        (deepfuse_resnet, {**POWERS, "fuse_low_to_high.res3": 3}),
        (mobilenet, MOBILENET),
        (
            two_scales,
            {
                f"{scale}.{n}": p
                for scale in ("bottom_up", "half_scale")
                for n, p in MOBILENET.items()
            },
        ),
    ],
)
@pytest.mark.parametrize("neck", [True, False])
def test_the_earlier_a_stage_the_slower_it_learns(network, powers, neck):
    model = tree(["head.w"])
    model.backbone = network()
    if neck:
        model.backbone, bottom_up = tree(["fpn_lateral2.weight"]), model.backbone
        model.backbone.bottom_up = bottom_up
    cfg = config(
        "DEEPFUSE_D2.SOLVER.LAYER_DECAY", 0.5, "DEEPFUSE_D2.SOLVER.BACKBONE_MULTIPLIER", 0.1
    )
    found = settings(build_optimizer(cfg, model), model, "lr")
    prefix = "backbone.bottom_up." if neck else "backbone."
    for start, power in powers.items():
        rates = [rate for n, rate in found.items() if n.startswith(f"{prefix}{start}")]
        assert rates, start
        assert rates == pytest.approx([0.1 * 0.5**power] * len(rates)), start
    slowed = [name for name, rate in found.items() if rate < 1]
    assert slowed == [n for n in found if n.startswith(prefix) and "fpn" not in n]


def test_without_layer_decay_all_stages_learn_alike():
    model = tree(["head.w"])
    model.backbone = resnet()
    assert set(settings(build_optimizer(config(), model), model, "lr").values()) == {1.0}


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_vectors_are_not_decayed_if_so_asked(optimizer):
    model = tree(["backbone.res2.weight", "backbone.res2.bias", "head.gamma", "head.w"])
    cfg = config(
        "DEEPFUSE_D2.SOLVER.NO_DECAY_OF_VECTORS", True, "DEEPFUSE_D2.SOLVER.OPTIMIZER", optimizer
    )
    built = build_optimizer(cfg, model)
    found = settings(built, model, "weight_decay")
    assert found == {
        "backbone.res2.weight": 0.1, "backbone.res2.bias": 0.0, "head.gamma": 0.0, "head.w": 0.1,
    }  # fmt: skip
    assert sum(len(group["params"]) for group in built.param_groups) == 4
    plain = config("DEEPFUSE_D2.SOLVER.OPTIMIZER", optimizer)
    assert set(settings(build_optimizer(plain, model), model, "weight_decay").values()) == {0.1}


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_fused_steps_are_those_of_single_operations(name):
    model = tree(["backbone.res2.weight", "backbone.res2.bias", "head.w"]).double()
    start = [p.detach().clone() for p in model.parameters()]
    gradients = [[torch.randn_like(p) for p in start] for _ in range(3)]
    results = []
    for kernels in ({}, {"fused": None, "foreach": False}):
        optimizer = build_optimizer(config("DEEPFUSE_D2.SOLVER.OPTIMIZER", name), model)
        assert optimizer.defaults["fused"] is True
        for group in optimizer.param_groups:
            group.update(kernels)
        for p, value in zip(model.parameters(), start, strict=True):
            p.data = value.clone()
        for step in gradients:
            for p, gradient in zip(model.parameters(), step, strict=True):
                p.grad = gradient.clone()
            optimizer.step()
        results.append([p.detach().clone() for p in model.parameters()])
    torch.testing.assert_close(results[0], results[1])
    assert not torch.equal(results[0][0], start[0])


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_config_switches_the_fused_step_off(name):
    cfg = config("DEEPFUSE_D2.SOLVER.OPTIMIZER", name, "DEEPFUSE_D2.SOLVER.FUSED", False)
    defaults = build_optimizer(cfg, tree(["head.w"])).defaults
    assert not defaults["fused"]
    assert defaults["foreach"] is True


@pytest.mark.parametrize("value", [0.0, 1.1])
def test_a_wrong_layer_decay_is_told(value):
    with pytest.raises(ConfigError, match=rf"LAYER_DECAY is {value}; it must be above 0 and at"):
        build_optimizer(config("DEEPFUSE_D2.SOLVER.LAYER_DECAY", value), tree(["head.w"]))
