#!/usr/bin/env python3
"""Run a model again on a batch that a training kept: what is not finite, where, in which image.

    python tools/replay_batch.py output/faults/nonfinite_0000123_rank0.pth
    python tools/replay_batch.py output/faults/out_of_memory_0000123_rank0.pth --device cpu \
        --opts SOLVER.AMP.ENABLED False

The file holds the batch, the weights and the random states of then, and the config. Nothing in it
is executed. Other weights go with --weights, other settings with --opts.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.engine import Trainer, load_config
from deepfuse_d2.engine.anomaly.batch_files import describe_batch, read_batch
from deepfuse_d2.engine.anomaly.detection import first_not_finite
from deepfuse_d2.errors import UserError
from deepfuse_d2.randomness import set_random_state


def main(argv: list[str] | None = None) -> bool:
    """Returns: whether all losses and gradients were finite this time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="that a training wrote to OUTPUT_DIR/faults")
    parser.add_argument("--weights", default="", help="default: those that the training had")
    parser.add_argument("--device", default="", help="default: the training's, or the CPU")
    parser.add_argument("--each", action="store_true", help="also run each image alone")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..."
    )
    args = parser.parse_args(argv)

    kept = read_batch(args.file)
    cfg = _config(kept, args)
    model = Trainer.build_model(cfg).train()
    if args.weights:
        DeepFuseCheckpointer(model).load(args.weights)
    else:
        model.load_state_dict(kept["model"])

    print(f"Iteration {kept['iteration']} of {kept['written']}: {kept['reason']}")
    print(describe_batch(kept["batch"]))
    for sample in kept["batch"]:
        _print_odd_inputs(sample)
    broken = first_not_finite(model)
    if broken is not None:
        print(f"The weights are broken already: {broken} is not finite.")
    set_random_state(kept["random"])
    is_finite = _run(model, cfg, kept["batch"], kept["losses"])
    if args.each and len(kept["batch"]) > 1:
        for sample in kept["batch"]:
            print(f"\n{sample.get('file_name', '?')} alone:")
            set_random_state(kept["random"])
            _run(model, cfg, [sample], {})
    return is_finite


def _config(kept: Mapping[str, Any], args: argparse.Namespace) -> CfgNode:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(kept["config"])
        opts = ["MODEL.WEIGHTS", "", *args.opts]
        return load_config(str(path), opts + (["MODEL.DEVICE", args.device] if args.device else []))


def _run(model: nn.Module, cfg: CfgNode, batch: list[dict], then: Mapping[str, float]) -> bool:
    """One forward and backward pass; prints losses, and the first module and gradient to break."""
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
    print(f"\n{'loss':24} {'now':>14} {'then':>14}")
    for name, loss in losses.items():
        was = f"{then[name]:14.6g}" if name in then else f"{'':14}"
        print(f"{name:24} {loss.item():14.6g} {was}".rstrip())
    print(f"First output that is not finite: {first[0] if first else 'none'}")
    gradients = {k: x.grad for k, x in model.named_parameters() if x.grad is not None}
    bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    print(f"Gradients that are not finite: {len(bad)} of {len(gradients)}")
    if gradients:
        largest = max(gradients, key=lambda name: gradients[name].abs().max().nan_to_num(0.0))
        print(f"Largest finite gradient: {gradients[largest].abs().max():.6g} in {largest}")
    return not bad and all(bool(loss.isfinite()) for loss in losses.values())


def _print_odd_inputs(sample: Mapping[str, Any]) -> None:
    name = sample.get("file_name", "?")
    for key, value in sample.items():
        for tensor in _tensors(value):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                print(f"{name}: {key} is not finite in {int((~tensor.isfinite()).sum())} places")
    instances = sample.get("instances")
    if instances is not None and instances.has("gt_boxes"):
        empty = int((~instances.gt_boxes.nonempty()).sum())
        if empty:
            print(f"{name}: {empty} of {len(instances)} boxes are empty")


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


if __name__ == "__main__":
    try:
        sys.exit(0 if main() else 1)
    except UserError as error:
        sys.exit(f"replay_batch.py: {error}")
