"""Optimizers by config: SGD and AdamW, fused into one operation, with rates and decay by layer."""

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from ...errors import ConfigError
from ...modeling.backbone.protocol import networks_of, stages_of

__all__ = ["build_optimizer"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Optimizer DEEPFUSE_D2.SOLVER.OPTIMIZER over the trainable parameters of `model`.

    The learning rate, weight decay (of norms and biases apart) and gradient clipping are
    detectron2's keys for both. DEEPFUSE_D2.SOLVER.BACKBONE_MULTIPLIER slows down the bottom-up
    network, and DEEPFUSE_D2.SOLVER.LAYER_DECAY its stages the more the earlier they are.

    Raises: ConfigError: a key has a value that is not allowed.
    """
    solver, ours = cfg.SOLVER, cfg.DEEPFUSE_D2.SOLVER
    if ours.OPTIMIZER not in ("SGD", "AdamW"):
        raise ConfigError(
            f'DEEPFUSE_D2.SOLVER.OPTIMIZER = "{ours.OPTIMIZER}" is unknown; choose one of "SGD", '
            '"AdamW".'
        )
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=_lr_factor(cfg, model),
    )
    if ours.NO_DECAY_OF_VECTORS:
        params = _without_decay_of_vectors(params)
    common = {
        "lr": solver.BASE_LR,
        "weight_decay": solver.WEIGHT_DECAY,
        **_kernels(params, ours.FUSED),
    }
    if ours.OPTIMIZER == "AdamW":
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
    multiplier, bias = cfg.DEEPFUSE_D2.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.BIAS_LR_FACTOR
    decay = cfg.DEEPFUSE_D2.SOLVER.LAYER_DECAY
    if multiplier <= 0:
        raise ConfigError(
            f"DEEPFUSE_D2.SOLVER.BACKBONE_MULTIPLIER is {multiplier}; it must be above 0. To keep "
            "the bottom-up network as it is, freeze it: MODEL.BACKBONE.FREEZE_AT 5."
        )
    if not 0 < decay <= 1:
        raise ConfigError(
            f"DEEPFUSE_D2.SOLVER.LAYER_DECAY is {decay}; it must be above 0 and at most 1, such as "
            "0.75. 1 gives all stages the same rate."
        )
    below = _stages_behind(model)

    # detectron2's own bias_lr_factor would replace what the function says, not multiply it
    def factor(name: str) -> float:
        of_bias = bias if name.rsplit(".", 1)[-1] == "bias" else 1.0
        of_layer = multiplier * decay ** below[name] if name in below else 1.0
        return of_bias * of_layer

    return factor


def _stages_behind(model: nn.Module) -> dict[str, int]:
    """Of each parameter of the bottom-up networks, how many depths come behind it, heads as one.

    The last stage of a network has 1, the one before 2, and so on. What wrappers add (a neck, the
    connections of a composite) comes with no weights and is not in it.
    """
    backbone = getattr(model, "backbone", None)
    behind = {}
    for network in networks_of(backbone).values() if backbone is not None else ():
        stages = stages_of(network)
        order = sorted({stage.depth for stage in stages}, reverse=True)
        for stage in stages:
            behind |= {id(p): order.index(stage.depth) + 1 for p in stage.parameters()}
    return {name: behind[id(p)] for name, p in model.named_parameters() if id(p) in behind}
