"""Activation checkpointing (arXiv 1604.06174): compute a stage twice rather than remember it."""

import contextlib
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["check_checkpoint_stages", "run_stage"]

# What a compiled graph changes, it changes once, from torch 2.10 on; with 2.8 and before, batch
# norms count a batch twice, and such a stage stays out of the graph.
_COMPILED_COUNTS_ONCE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10)


def run_stage(
    stage: nn.Module,
    *inputs: Tensor,
    checkpointed: bool,
    call: Callable[..., Tensor] | None = None,
) -> Tensor:
    """``stage(*inputs)``; with `checkpointed`, what it remembers for backward is its input alone.

    Outputs, gradients and running statistics are those of the plain call. Only training is
    checkpointed: evaluation, tracing and export always take the plain call.

    Args:
        call: what computes the stage, if not its own call.
    """
    call = stage if call is None else call
    if not (checkpointed and stage.training and is_grad_enabled()):
        return call(*inputs)
    if torch.compiler.is_compiling() and _COMPILED_COUNTS_ONCE:
        return checkpoint(call, *inputs, use_reentrant=False)
    return _checkpoint(stage, call, *inputs)


@torch.compiler.disable
def _checkpoint(stage: nn.Module, call: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return checkpoint(
        call,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _statistics_untouched(stage)),
    )


@contextlib.contextmanager
def _statistics_untouched(stage: nn.Module) -> Iterator[None]:
    """Keep batch norms from counting a batch again while its activations are computed again."""
    norms = [m for m in stage.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, statistics in zip(norms, kept, strict=True):
        # Copies, not None: backward looks for the very tensors that the first pass has saved.
        for name, value in statistics.items():
            setattr(norm, name, value.clone())
    try:
        yield
    finally:
        for norm, statistics in zip(norms, kept, strict=True):
            for name, value in statistics.items():
                setattr(norm, name, value)


def check_checkpoint_stages(asked: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """`asked` as a tuple; names of stages that are not in `known` are an error."""
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ValueError(
            f"checkpoint_stages (DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES) names {unknown}, "
            f"which this backbone does not have; choose among {list(known)}."
        )
    return tuple(asked)
