"""Optimizers: rates and decay by layer, and one operation for all parameters."""

import pytest
import torch
from detectron2.config import get_cfg
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


RESNET = ["stem.conv1", "res2.0.conv1", "res3.0.conv1", "res4.5.conv3", "res5.0.shortcut"]
VIT = ["pos_embed", "patch_embed.proj", "blocks.0.mlp", "blocks.1.mlp", "blocks.10.mlp", "norm"]
SWIN = ["patch_embed.proj", "layers_0.blocks.1.mlp", "layers_1.blocks.0.mlp", "layers_1.norm"]


@pytest.mark.parametrize(
    ("names", "powers"),
    [(RESNET, [5, 4, 3, 2, 1]), (VIT, [4, 4, 3, 2, 1, 1]), (SWIN, [3, 2, 1, 1])],
)
def test_the_earlier_a_stage_the_slower_it_learns(names, powers):
    prefix = "backbone.bottom_up."
    model = tree(
        [f"{prefix}{n}.weight" for n in names] + ["backbone.fpn_lateral2.weight", "head.w"]
    )
    cfg = config("SOLVER.LAYER_DECAY", 0.5, "SOLVER.BACKBONE_MULTIPLIER", 0.1)
    found = settings(build_optimizer(cfg, model), model, "lr")
    for name, power in zip(names, powers, strict=True):
        assert found[f"{prefix}{name}.weight"] == pytest.approx(0.1 * 0.5**power), name
    assert found["backbone.fpn_lateral2.weight"] == found["head.w"] == 1.0


def test_without_layer_decay_all_stages_learn_alike():
    model = tree([f"backbone.bottom_up.{n}.weight" for n in RESNET])
    assert set(settings(build_optimizer(config(), model), model, "lr").values()) == {1.0}


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_vectors_are_not_decayed_if_so_asked(optimizer):
    model = tree(["backbone.res2.weight", "backbone.res2.bias", "head.gamma", "head.w"])
    cfg = config("SOLVER.NO_DECAY_OF_VECTORS", True, "SOLVER.OPTIMIZER", optimizer)
    built = build_optimizer(cfg, model)
    found = settings(built, model, "weight_decay")
    assert found == {
        "backbone.res2.weight": 0.1, "backbone.res2.bias": 0.0, "head.gamma": 0.0, "head.w": 0.1,
    }  # fmt: skip
    assert sum(len(group["params"]) for group in built.param_groups) == 4
    plain = config("SOLVER.OPTIMIZER", optimizer)
    assert set(settings(build_optimizer(plain, model), model, "weight_decay").values()) == {0.1}


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_fused_steps_are_those_of_single_operations(name):
    model = tree(["backbone.res2.weight", "backbone.res2.bias", "head.w"]).double()
    start = [p.detach().clone() for p in model.parameters()]
    gradients = [[torch.randn_like(p) for p in start] for _ in range(3)]
    results = []
    for kernels in ({}, {"fused": None, "foreach": False}):
        optimizer = build_optimizer(config("SOLVER.OPTIMIZER", name), model)
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
    cfg = config("SOLVER.OPTIMIZER", name, "SOLVER.FUSED", False)
    defaults = build_optimizer(cfg, tree(["head.w"])).defaults
    assert not defaults["fused"]
    assert defaults["foreach"] is True


@pytest.mark.parametrize("value", [0.0, 1.1])
def test_a_wrong_layer_decay_is_told(value):
    with pytest.raises(ConfigError, match=rf"LAYER_DECAY is {value}; it must be above 0 and at"):
        build_optimizer(config("SOLVER.LAYER_DECAY", value), tree(["head.w"]))
