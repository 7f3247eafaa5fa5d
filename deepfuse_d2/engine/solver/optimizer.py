"""Optimizers by config: SGD and AdamW, fused into one operation, with rates and decay by layer."""

import re
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from ...errors import ConfigError

__all__ = ["build_optimizer"]

# Stages of detectron2's, torchvision's and timm's networks; what stands before them is the stem.
_STAGE = re.compile(r"(?:^|\.)(?:res|layer|stage|block)s?[._]?(\d+)(?=[._]|$)")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Optimizer SOLVER.OPTIMIZER over the trainable parameters of `model`.

    The learning rate, weight decay (of norms and biases apart) and gradient clipping are
    detectron2's keys for both. SOLVER.BACKBONE_MULTIPLIER slows down the bottom-up network, and
    SOLVER.LAYER_DECAY its stages the more the earlier they are.

    Raises: ConfigError: a key has a value that is not allowed.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER not in ("SGD", "AdamW"):
        raise ConfigError(
            f'SOLVER.OPTIMIZER = "{solver.OPTIMIZER}" is unknown; choose one of "SGD", "AdamW".'
        )
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=_lr_factor(cfg, model),
    )
    if solver.NO_DECAY_OF_VECTORS:
        params = _without_decay_of_vectors(params)
    common = {
        "lr": solver.BASE_LR,
        "weight_decay": solver.WEIGHT_DECAY,
        **_kernels(params, solver.FUSED),
    }
    if solver.OPTIMIZER == "AdamW":
        optimizer = torch.optim.AdamW(params, **common)
    else:
        optimizer = torch.optim.SGD(
            params, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **common
        )
    return maybe_add_gradient_clipping(cfg, optimizer)


def _kernels(groups: list[dict[str, Any]], fused: bool) -> dict[str, bool]:
    """One fused operation over all parameters if so asked and there is one for their kind.

    Otherwise several operations, each over all of them.
    """
    parameters = [p for group in groups for p in group["params"]]
    can_fuse = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return {"fused": True} if fused and can_fuse else {"foreach": True}


def _without_decay_of_vectors(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`groups` with the parameters of less than two dimensions in groups of their own."""
    split = []
    for group in groups:
        vectors = [p for p in group["params"] if p.ndim < 2]
        split.append({**group, "params": [p for p in group["params"] if p.ndim >= 2]})
        split.append({**group, "params": vectors, "weight_decay": 0.0})
    return [group for group in split if group["params"]]


def _lr_factor(cfg: CfgNode, model: nn.Module) -> Callable[[str], float]:
    """Factor of the learning rate by the name of a parameter."""
    multiplier, bias = cfg.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.BIAS_LR_FACTOR
    decay = cfg.SOLVER.LAYER_DECAY
    if multiplier <= 0:
        raise ConfigError(
            f"SOLVER.BACKBONE_MULTIPLIER is {multiplier}; it must be above 0. To keep the "
            "bottom-up network as it is, freeze it: MODEL.BACKBONE.FREEZE_AT 5."
        )
    if not 0 < decay <= 1:
        raise ConfigError(
            f"SOLVER.LAYER_DECAY is {decay}; it must be above 0 and at most 1, such as 0.75. 1 "
            "gives all stages the same rate."
        )
    # A neck lies within the backbone, around the network that comes with weights.
    has_neck = hasattr(getattr(model, "backbone", None), "bottom_up")
    slow = "backbone.bottom_up." if has_neck else "backbone."
    below = _stages_behind([name for name, _ in model.named_parameters() if name.startswith(slow)])

    # detectron2's own bias_lr_factor would replace what the function says, not multiply it
    def factor(name: str) -> float:
        of_bias = bias if name.rsplit(".", 1)[-1] == "bias" else 1.0
        of_layer = multiplier * decay ** below[name] if name in below else 1.0
        return of_bias * of_layer

    return factor


def _stages_behind(names: list[str]) -> dict[str, int]:
    """Of each parameter of a network, how many stages come after its own, the neck or head as one.

    The last stage has 1, the one before 2, and what belongs to no stage comes before all, except
    for a norm at the end.
    """
    stage = {name: int(m[1]) for name in names if (m := _STAGE.search(name))}
    order = {number: i for i, number in enumerate(sorted(set(stage.values()), reverse=True), 1)}
    last_of_stage = max((i for i, name in enumerate(names) if name in stage), default=-1)
    behind = {}
    for i, name in enumerate(names):
        if name in stage:
            behind[name] = order[stage[name]]
        else:
            behind[name] = 1 if i > last_of_stage >= 0 else len(order) + 1
    return behind
