"""Optimizers by config: detectron2's SGD, and AdamW for short trainings from scratch."""

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from ..errors import ConfigError

__all__ = ["build_optimizer"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Optimizer SOLVER.OPTIMIZER over the trainable parameters of `model`.

    The learning rate, weight decay (of norms and biases apart) and gradient clipping are
    detectron2's keys for both.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER == "SGD":
        return build_sgd(cfg, model)
    if solver.OPTIMIZER != "AdamW":
        raise ConfigError(
            f'SOLVER.OPTIMIZER = "{solver.OPTIMIZER}" is unknown; choose one of "SGD", "AdamW".'
        )
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    optimizer = torch.optim.AdamW(
        params, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, foreach=True
    )
    return maybe_add_gradient_clipping(cfg, optimizer)
