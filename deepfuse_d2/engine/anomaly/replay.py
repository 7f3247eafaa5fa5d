"""A batch that a training kept, run again: what is not finite, where, in which image."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from ...checkpoint import DeepFuseCheckpointer
from ...config.loading import load_config
from ...randomness import set_random_state
from .batch_files import describe_batch, read_batch
from .detection import first_not_finite

__all__ = ["replay"]


def replay(
    file: str,
    *,
    weights: str = "",
    device: str = "",
    each: bool = False,
    opts: Sequence[str] = (),
    say: Callable[[str], None],
) -> bool:
    """Run the model again on a batch; return whether all losses and gradients are finite this time.

    Args:
        file: that a training wrote to OUTPUT_DIR/faults.
        weights: a file; by default those that the training had.
        device: by default the training's, or the CPU.
        each: also run each image alone.
        opts: config overrides.
        say: what is done with each line of the report.
    """
    kept = read_batch(file)
    cfg = _config(kept, device, opts)
    model = build_model(cfg).train()
    if weights:
        DeepFuseCheckpointer(model).load(weights)
    else:
        model.load_state_dict(kept["model"])

    say(f"Iteration {kept['iteration']} of {kept['written']}: {kept['reason']}")
    say(describe_batch(kept["batch"]))
    for sample in kept["batch"]:
        for line in _odd_inputs(sample):
            say(line)
    broken = first_not_finite(model)
    if broken is not None:
        say(f"The weights are broken already: {broken} is not finite.")
    set_random_state(kept["random"])
    is_finite = _run(model, cfg, kept["batch"], kept["losses"], say)
    if each and len(kept["batch"]) > 1:
        for sample in kept["batch"]:
            say(f"\n{sample.get('file_name', '?')} alone:")
            set_random_state(kept["random"])
            _run(model, cfg, [sample], {}, say)
    return is_finite


def _config(kept: Mapping[str, Any], device: str, opts: Sequence[str]) -> CfgNode:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(kept["config"])
        pairs = ["MODEL.WEIGHTS", "", *opts, *(["MODEL.DEVICE", device] if device else [])]
        return load_config(str(path), pairs)


def _run(
    model: nn.Module,
    cfg: CfgNode,
    batch: list[dict],
    then: Mapping[str, float],
    say: Callable[[str], None],
) -> bool:
    """One forward and backward pass; says losses, and the first module and gradient to break."""
    first: list[str] = []

    def look(name: str):
        def hook(module, inputs, output):
            if not first and any(not x.isfinite().all() for x in _tensors(output)):
                whole = all(x.isfinite().all() for x in _tensors(inputs))
                given = "finite" if whole else "not finite"
                first.append(f"{name} ({type(module).__name__}; its input is {given})")

        return hook

    handles = [x.register_forward_hook(look(name)) for name, x in model.named_modules() if name]
    try:
        with torch.autocast(
            torch.device(cfg.MODEL.DEVICE).type,
            getattr(torch, cfg.DEEPFUSE_D2.SOLVER.AMP.DTYPE),
            enabled=cfg.SOLVER.AMP.ENABLED,
        ):
            losses = model(batch)
    finally:
        for handle in handles:
            handle.remove()
    model.zero_grad()
    sum(loss.float() for loss in losses.values()).backward()
    say(f"\n{'loss':24} {'now':>14} {'then':>14}")
    for name, loss in losses.items():
        was = f"{then[name]:14.6g}" if name in then else f"{'':14}"
        say(f"{name:24} {loss.item():14.6g} {was}".rstrip())
    say(f"First output that is not finite: {first[0] if first else 'none'}")
    gradients = {k: x.grad for k, x in model.named_parameters() if x.grad is not None}
    bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    say(f"Gradients that are not finite: {len(bad)} of {len(gradients)}")
    if gradients:
        largest = max(gradients, key=lambda name: gradients[name].abs().max().nan_to_num(0.0))
        say(f"Largest finite gradient: {gradients[largest].abs().max():.6g} in {largest}")
    return not bad and all(bool(loss.isfinite()) for loss in losses.values())


def _odd_inputs(sample: Mapping[str, Any]) -> Iterator[str]:
    name = sample.get("file_name", "?")
    for key, value in sample.items():
        for tensor in _tensors(value):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                yield (f"{name}: {key} is not finite in {int((~tensor.isfinite()).sum())} places")
    instances = sample.get("instances")
    if instances is not None and instances.has("gt_boxes"):
        empty = int((~instances.gt_boxes.nonempty()).sum())
        if empty:
            yield (f"{name}: {empty} of {len(instances)} boxes are empty")


def _tensors(item: Any) -> list[Tensor]:
    """All tensors with numbers that a nested output or structure holds."""
    if isinstance(item, Tensor):
        return [item] if item.numel() else []
    if isinstance(item, Mapping):
        return [x for value in item.values() for x in _tensors(value)]
    if isinstance(item, (list, tuple)):
        return [x for value in item for x in _tensors(value)]
    if hasattr(item, "get_fields"):
        return _tensors(item.get_fields())
    inner = getattr(item, "tensor", None)
    return [inner] if isinstance(inner, Tensor) and inner.is_floating_point() else []
