"""Learning rates over a training: the polynomial schedule, and the bottom-up network's factor."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from torch import nn

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.engine.solver.optimizer import build_optimizer
from deepfuse_d2.engine.solver.schedule import PolyParamScheduler, build_lr_scheduler
from deepfuse_d2.errors import ConfigError


def config(*overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.BASE_LR = 0.5
    cfg.SOLVER.MAX_ITER = 20
    cfg.SOLVER.WARMUP_ITERS = 4
    cfg.SOLVER.WARMUP_FACTOR = 0.1
    cfg.merge_from_list(list(overrides))
    return cfg


def rates(cfg, iterations):
    """The learning rate of each iteration."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    schedule = build_lr_scheduler(cfg, optimizer)
    found = []
    for _ in range(iterations):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_warms_up_then_falls_by_the_power():
    found = rates(config("DEEPFUSE_D2.SOLVER.POLY_LR_POWER", 0.9), 20)
    warm = 0.5 * (1 - 4 / 20) ** 0.9
    for i in range(4):
        start = 0.1 * 0.5
        assert found[i] == pytest.approx(start + i / 4 * (warm - start))
    for i in range(4, 20):
        assert found[i] == pytest.approx(0.5 * (1 - i / 20) ** 0.9)


def test_the_rate_stays_0_past_the_end_of_the_training():
    assert rates(config(), 40)[20:] == [0.0] * 20


def test_the_rate_stays_at_its_given_end():
    found = rates(config("SOLVER.BASE_LR_END", 0.1, "DEEPFUSE_D2.SOLVER.POLY_LR_POWER", 2.0), 40)
    # 0.5 * (1 - i / 20)^2 is 0.1 between the iterations 11 and 12
    assert found[11] == pytest.approx(0.5 * (9 / 20) ** 2)
    assert found[12:] == pytest.approx([0.1] * 28)


def test_the_schedule_never_rises_nor_turns_complex():
    values = [PolyParamScheduler(0.9)(i / 100) for i in range(200)]
    assert all(isinstance(value, float) for value in values)
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_schedules_of_detectron2_are_built_by_detectron2(name):
    from detectron2.solver import build_lr_scheduler as build_detectron2_scheduler

    cfg = config("SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.STEPS", "(10,)")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = build_detectron2_scheduler(cfg, optimizer)
    expected = [0.5 * theirs._multiplier(i / 20) for i in range(20)]
    assert rates(cfg, 20) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.LR_SCHEDULER_NAME", "Poly"], 'NAME = "Poly".*"WarmupPolyLR", or one of detect'),
        (["DEEPFUSE_D2.SOLVER.POLY_LR_POWER", 0.0], "POLY_LR_POWER 0.0 .allowed: above 0"),
        (["SOLVER.BASE_LR_END", 0.6], "BASE_LR_END 0.6 .allowed: 0 to SOLVER.BASE_LR, which is 0"),
    ],
)
def test_a_wrong_schedule_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        rates(config(*overrides), 1)


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR"])
def test_past_the_end_the_rate_stays_what_it_was_at_the_end(name):
    cfg = config("SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.STEPS", "(10,)")
    found = rates(cfg, 40)
    assert found[20:] == [found[20]] * 20
    assert found[20] <= found[19]


class Model(nn.Module):
    def __init__(self, has_neck):
        super().__init__()
        block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.backbone = nn.Module()
        self.backbone.lateral = nn.Conv2d(4, 4, 1)
        self.backbone.add_module("bottom_up" if has_neck else "stem", block)
        self.head = nn.Conv2d(4, 2, 1)


def rate_of(optimizer, parameter):
    return next(
        group["lr"]
        for group in optimizer.param_groups
        if any(p is parameter for p in group["params"])
    )


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_bottom_up_network_learns_slower_and_its_neck_does_not(name):
    model = Model(has_neck=True)
    cfg = config(
        "DEEPFUSE_D2.SOLVER.BACKBONE_MULTIPLIER", 0.1, "DEEPFUSE_D2.SOLVER.OPTIMIZER", name
    )
    optimizer = build_optimizer(cfg, model)
    for parameter in model.backbone.bottom_up.parameters():
        assert rate_of(optimizer, parameter) == pytest.approx(0.05)
    for parameter in (*model.backbone.lateral.parameters(), *model.head.parameters()):
        assert rate_of(optimizer, parameter) == 0.5
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 8


def test_without_a_neck_the_whole_backbone_learns_slower():
    model = Model(has_neck=False)
    optimizer = build_optimizer(config("DEEPFUSE_D2.SOLVER.BACKBONE_MULTIPLIER", 0.1), model)
    for parameter in model.backbone.parameters():
        assert rate_of(optimizer, parameter) == pytest.approx(0.05)
    assert rate_of(optimizer, model.head.weight) == 0.5


def test_the_factor_of_biases_multiplies_that_of_the_bottom_up_network():
    model = Model(has_neck=True)
    cfg = config("DEEPFUSE_D2.SOLVER.BACKBONE_MULTIPLIER", 0.1, "SOLVER.BIAS_LR_FACTOR", 2.0)
    optimizer = build_optimizer(cfg, model)
    assert rate_of(optimizer, model.backbone.bottom_up[0].bias) == pytest.approx(0.1)
    assert rate_of(optimizer, model.head.bias) == pytest.approx(1.0)


@pytest.mark.parametrize("overrides", [(), ("SOLVER.BIAS_LR_FACTOR", 2.0)])
def test_without_a_factor_sgd_is_detectron2s(overrides):
    model = Model(has_neck=True)
    cfg = config("SOLVER.WEIGHT_DECAY_NORM", 0.0, "SOLVER.NESTEROV", True, *overrides)
    ours, theirs = build_optimizer(cfg, model), build_detectron2_optimizer(cfg, model)
    assert type(ours) is type(theirs)
    # the same steps, in one operation
    assert ours.defaults == {**theirs.defaults, "foreach": None, "fused": True}
    for parameter in model.parameters():
        groups = [
            {k: v for k, v in group.items() if k not in ("params", "foreach", "fused")}
            for optimizer in (ours, theirs)
            for group in optimizer.param_groups
            if any(p is parameter for p in group["params"])
        ]
        assert groups[0] == groups[1]


def test_the_schedule_keeps_the_factor():
    model = Model(has_neck=True)
    cfg = config("DEEPFUSE_D2.SOLVER.BACKBONE_MULTIPLIER", 0.1)
    optimizer = build_optimizer(cfg, model)
    schedule = build_lr_scheduler(cfg, optimizer)
    for _ in range(10):
        optimizer.step()
        schedule.step()
    head = rate_of(optimizer, model.head.weight)
    assert head == pytest.approx(0.5 * 0.5**0.9)
    assert rate_of(optimizer, model.backbone.bottom_up[0].weight) == pytest.approx(0.1 * head)


def test_a_factor_of_0_is_answered_by_how_to_freeze():
    with pytest.raises(ConfigError, match=r"BACKBONE_MULTIPLIER is 0\.0.*FREEZE_AT 5"):
        build_optimizer(config("DEEPFUSE_D2.SOLVER.BACKBONE_MULTIPLIER", 0.0), Model(has_neck=True))


@pytest.mark.parametrize(
    "name", ["WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"]
)
def test_every_schedule_goes_to_the_last_iteration_and_past_it(name):
    cfg = config("SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.STEPS", (10, 15), "SOLVER.NUM_DECAYS", 3)
    found = rates(cfg, 24)
    assert found[5] > found[19] >= 0
    assert found[21] == found[23] <= found[19]


def test_steps_of_a_fixed_factor_stay_at_the_last():
    cfg = config("SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR", "SOLVER.WARMUP_ITERS", 0)
    # four stretches of five iterations, each a tenth of the one before
    expected = [0.5 * 0.1 ** (i // 5) for i in range(20)] + [0.5 * 0.1**3] * 2
    assert rates(cfg, 22) == pytest.approx(expected)
