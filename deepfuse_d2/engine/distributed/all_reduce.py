"""Questions that all processes of a training must answer alike."""

import torch
import torch.distributed as dist
from detectron2.utils import comm

__all__ = ["all_reduce_any", "forget_group"]

# The group of processes and one for the CPU that has the same members; made at the first question.
_group: tuple[object, object] | None = None


def all_reduce_any(flag: bool) -> bool:
    """Whether `flag` holds in any process; all must ask together."""
    global _group
    if comm.get_world_size() == 1:
        return flag
    world = dist.group.WORLD
    if _group is None or _group[0] is not world:
        # A question to the CPU does not wait for what a GPU has yet to compute.
        _group = (world, world if dist.get_backend() == "gloo" else dist.new_group(backend="gloo"))
    found = torch.tensor(int(flag))
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=_group[1])
    return bool(found)


def forget_group() -> None:
    """Hold no group of processes any longer; the next question takes the one of then."""
    global _group
    _group = None
