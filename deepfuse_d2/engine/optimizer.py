"""Optimizers by config: SGD as detectron2 builds it, and AdamW for short trainings from scratch."""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from ..errors import ConfigError

__all__ = ["build_optimizer"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Optimizer SOLVER.OPTIMIZER over the trainable parameters of `model`.

    The learning rate, weight decay (of norms and biases apart) and gradient clipping are
    detectron2's keys for both. SOLVER.BACKBONE_MULTIPLIER slows down the bottom-up network.
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
    common = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY, "foreach": True}
    if solver.OPTIMIZER == "AdamW":
        optimizer = torch.optim.AdamW(params, **common)
    else:
        optimizer = torch.optim.SGD(
            params, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **common
        )
    return maybe_add_gradient_clipping(cfg, optimizer)


def _lr_factor(cfg: CfgNode, model: nn.Module) -> Callable[[str], float]:
    """Factor of the learning rate by the name of a parameter."""
    multiplier, bias = cfg.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.BIAS_LR_FACTOR
    if multiplier <= 0:
        raise ConfigError(
            f"SOLVER.BACKBONE_MULTIPLIER is {multiplier}; it must be above 0. To keep the "
            "bottom-up network as it is, freeze it: MODEL.BACKBONE.FREEZE_AT 5."
        )
    # A neck lies within the backbone, around the network that comes with weights.
    has_neck = hasattr(getattr(model, "backbone", None), "bottom_up")
    slow = "backbone.bottom_up." if has_neck else "backbone."

    # detectron2's own bias_lr_factor would replace what the function says, not multiply it
    def factor(name: str) -> float:
        of_bias = bias if name.rsplit(".", 1)[-1] == "bias" else 1.0
        return of_bias * (multiplier if name.startswith(slow) else 1.0)

    return factor
