"""torch.compile of the parts of a model that are tensors in, tensors out."""

import logging

import torch
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.proposal_generator.rpn import RPN
from torch import nn

from ...kernels.capabilities import allow_recompilations, why_not_compile

__all__ = ["compile_by_config", "compile_parts"]


def compile_parts(
    model: nn.Module, device_type: str, *, backend: str = "inductor"
) -> dict[str, nn.Module]:
    """Compile, in place, backbone with neck, and dense heads; the names in checkpoints stay.

    Compiled are ``backbone``, the head of an RPN or a dense detector, and ``sem_seg_head``. What
    works on boxes, of which there is another number every time, is not. Heights, widths and batch
    sizes are symbols from the first call, so that images of other sizes do not compile again.

    Args:
        model: detectron2's or ours; or one without such parts, which stays as it is.
        device_type: "cpu" or "cuda".
        backend: of torch.compile.

    Returns:
        the compiled parts by name; none, after one warning, on a machine without a compiler.
    """
    parts = _parts(model)
    reason = why_not_compile(device_type) if backend == "inductor" else ""
    if reason:
        logging.getLogger(__name__).warning(
            "MODEL.COMPILE.ENABLED has no effect: %s. Training goes on without.", reason
        )
        return {}
    # Each of the levels of a pyramid is another size at one place in the code, and so is
    # evaluation to training; the default, 8, is then used up by what does not change any more.
    # Sizes that happen to be equal in the first batch, such as the width of one level of a pyramid
    # and the height of the next, are different symbols.
    allow_recompilations(32)
    for part in parts.values():
        part.compile(dynamic=True, backend=backend)
    return parts


def _parts(model: nn.Module) -> dict[str, nn.Module]:
    parts = {name: getattr(model, name, None) for name in ("backbone", "sem_seg_head")}
    if isinstance(model, DenseDetector):
        parts["head"] = model.head
    if isinstance(getattr(model, "proposal_generator", None), RPN):
        parts["proposal_generator.rpn_head"] = model.proposal_generator.rpn_head
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def compile_by_config(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """`model`, compiled if MODEL.COMPILE asks for it."""
    if cfg.MODEL.COMPILE.ENABLED:
        device_type = torch.device(cfg.MODEL.DEVICE).type
        compile_parts(model, device_type, backend=cfg.MODEL.COMPILE.BACKEND)
    return model
