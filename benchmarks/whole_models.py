"""detectron2's own model with its dense parts in a well-kept engine: peers for a comparison.

What is detectron2's stays so: proposals, non-maximum suppression, RoIAlign, the pasting of masks.
Backbone and neck, the head of proposals, box and mask heads run in the engine, as anybody would do
it who has detectron2 and the engine. Norms are folded before, which these engines do themselves.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from deepfuse_d2.inference.engines import ENGINES, run_in_engine
from deepfuse_d2.inference.engines.build import parts_of
from deepfuse_d2.inference.engines.part import PartInEngine
from deepfuse_d2.inference.optimize.fold import fold_norms

__all__ = ["PEERS", "available_peers", "parts_outside", "whole_model"]

#: Engines whose users would run a whole model in them, and whether they take lower precision.
PEERS = {"openvino": True, "onnxruntime": False, "inductor": True}


def available_peers(names: list[str], device: torch.device) -> tuple[list[str], list[str]]:
    """Of `names`, those that are installed and run models on `device`; and why not the others."""
    reasons = {name: ENGINES[name].why_not(device) for name in names}
    found = [name for name, reason in reasons.items() if not reason]
    return found, [f"{name} is left out: {why}" for name, why in reasons.items() if why]


@torch.no_grad()
def whole_model(model: nn.Module, engine: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of detectron2's `model` whose dense parts compute in `engine`."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    fold_norms(model)
    run_in_engine(model, parts_of(model), ENGINES[engine], dtype)
    return model


def parts_outside(model: nn.Module) -> list[str]:
    """Parts of a model that were given to an engine and gave way to the model's own modules."""
    parts = [x for m in model.modules() for x in vars(m).values() if isinstance(x, PartInEngine)]
    return [part.name for part in parts if part.runs_in == "native"]
