"""Norms folded into the convolutions before them.

In evaluation, a batch norm, frozen or not, is an affine map of each channel: y = s x + t with
s = weight / sqrt(running_var + eps) and t = bias - s running_mean. After a convolution it scales
its filters and shifts its bias. What follows no convolution (a pre-activation) stays as it is.
"""

import logging
from collections import defaultdict
from collections.abc import Callable

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ...layers.norm import FixedBatchNorm2d, UnsyncedBatchNorm

__all__ = ["fold_norms"]

# Subclasses may do more than the affine map (timm's BatchNormAct2d, for one).
_NORMS = (
    FrozenBatchNorm2d,
    FixedBatchNorm2d,
    nn.BatchNorm2d,
    nn.SyncBatchNorm,
    NaiveSyncBatchNorm,
    UnsyncedBatchNorm,
)
# What looks at a tensor without using its values.
_LOOKS = {"__get__", "dim", "size", "numel", "is_contiguous", "is_floating_point", "stride"}


@torch.no_grad()
def fold_norms(
    model: nn.Module, part: nn.Module | None = None, run: Callable[[], object] | None = None
) -> int:
    """Fold what can be folded, in place, and return how many norms that were.

    Found are norms inside detectron2's ``Conv2d``, norms right behind a convolution in an
    ``nn.Sequential`` and, by running it once, norms in `part` that alone see the result of a
    convolution, however the two are written down.

    Args:
        model: in evaluation.
        part: of `model`, or all of it.
        run: runs it once.
    """
    count = _fold_inner(model) + _fold_sequential(model)
    if part is not None and any(_can_fold(m) for m in part.modules()):
        count += _fold_observed(part, run)
    return count


def fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    """Change `conv` so that it gives what `norm` made of its result."""
    weight, variance = conv.weight.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter((weight * scale[:, None, None, None]).to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(dtype), requires_grad=False)


def _can_fold(norm: nn.Module | None) -> bool:
    if type(norm) not in _NORMS or norm.running_mean is None:
        return False
    return isinstance(norm, FrozenBatchNorm2d) or not norm.training


def _fold_inner(model: nn.Module) -> int:
    count = 0
    for conv in model.modules():
        plain = isinstance(conv, Conv2d) and type(conv).forward is Conv2d.forward
        if plain and _can_fold(conv.norm):
            fold(conv, conv.norm)
            conv.norm = None
            count += 1
    return count


def _fold_sequential(model: nn.Module) -> int:
    places = defaultdict(int)
    for _, module in model.named_modules(remove_duplicate=False):
        places[module] += 1
    count = 0
    for sequence in model.modules():
        if type(sequence) is not nn.Sequential:
            continue
        for i in range(len(sequence) - 1):
            conv, norm = sequence[i], sequence[i + 1]
            if _ends_linear(conv) and _can_fold(norm) and places[conv] == places[sequence]:
                fold(conv, norm)
                sequence[i + 1] = nn.Identity()
                count += 1
    return count


def _ends_linear(module: nn.Module) -> bool:
    """Whether the module gives what its convolution gives."""
    if type(module) is Conv2d:
        return module.norm is None and module.activation is None
    return type(module) is nn.Conv2d


def _fold_observed(part: nn.Module, run: Callable[[], object]) -> int:
    """Fold pairs of a convolution and a norm that a run of the network shows to belong together."""
    watched: dict[int, tuple[Tensor, nn.Module]] = {}
    uses: dict[int, int] = defaultdict(int)
    normed: dict[nn.Module, set] = defaultdict(set)  # convolution -> norms of its results
    sources: dict[nn.Module, set] = defaultdict(set)  # norm -> what gave its inputs

    class Observe(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") not in _LOOKS:
                for leaf in tree_leaves((args, kwargs)):
                    if id(leaf) in watched:
                        uses[id(leaf)] += 1
            return func(*args, **(kwargs or {}))

    def after_conv(module, args, output):
        # the tensor is kept, so that no other gets its id
        watched[id(output)] = (output, module)

    def before_norm(module, args):
        source = watched.get(id(args[0]), (None, None))[1]
        sources[module].add(source)
        if source is not None:
            normed[source].add(module)

    handles = [m.register_forward_hook(after_conv) for m in part.modules() if _ends_linear(m)]
    handles += [m.register_forward_pre_hook(before_norm) for m in part.modules() if _can_fold(m)]
    try:
        with Observe():
            run()
    except Exception:
        # Some unusual input or control flow. Nothing is folded then, and nothing is wrong.
        logging.getLogger(__name__).warning(
            "%s does not run on a black image; its norms stay beside their convolutions.",
            type(part).__name__,
            exc_info=True,
        )
        return 0
    finally:
        for handle in handles:
            handle.remove()

    shared = {conv for key, (_, conv) in watched.items() if uses[key] != 1}
    names = {module: name for name, module in part.named_modules()}
    count = 0
    for conv, norms in normed.items():
        norm = next(iter(norms))
        if len(norms) == 1 and sources[norm] == {conv} and conv not in shared:
            fold(conv, norm)
            parent, _, child = names[norm].rpartition(".")
            setattr(part.get_submodule(parent), child, nn.Identity())
            count += 1
    return count
