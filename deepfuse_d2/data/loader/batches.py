"""Which images make up which batch: a function of the seed alone, that starts anywhere.

Batches are formed for all processes at once, from what the records say of the images, before any
image is read. So they are the same for any number of processes and of data-loader workers, and a
few numbers say where a training stands in them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from torch.utils.data import Sampler

__all__ = ["Batches", "SamplerState", "aspect_groups"]

# (position in the endless stream of samples, index of the record)
SampleIndex = tuple[int, int]


@dataclass
class SamplerState:
    """Where a training stands.

    Attributes:
        position: samples taken from the stream so far.
        waiting: samples taken that wait for others of their group, by group.
    """

    position: int = 0
    waiting: list[list[SampleIndex]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        waiting = [[list(pick) for pick in group] for group in self.waiting]
        return {"position": self.position, "waiting": waiting}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "SamplerState":
        waiting = [[tuple(pick) for pick in group] for group in state["waiting"]]
        return cls(state["position"], waiting)


class Batches:
    """Batches of one kind of images each.

    Args:
        sampler: builds a sampler of detectron2's, or any that is endless, from a seed. Of one that
            splits its indices among processes, the indices before the split are taken.
        batch_size: images in a batch, of all processes together.
        groups: of each record, 0 or more: images of one group alone come into one batch; None puts
            all into one group.
        rank, world_size: this process gets every `world_size`-th image of each batch.
    """

    def __init__(
        self,
        sampler: Callable[[int], Sampler],
        batch_size: int,
        groups: Sequence[int] | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups
        self.rank = rank
        self.world_size = world_size

    def after(
        self, seed: int, state: SamplerState
    ) -> Iterator[tuple[list[SampleIndex], SamplerState]]:
        """Batches from `state` on, without end: the part of this process, and the state after it.

        `state` may come from a training of another batch size or number of processes: no image is
        lost or seen twice.
        """
        sampler = self.sampler(seed)
        stream = getattr(sampler, "_infinite_indices", sampler.__iter__)()
        numbered = enumerate(islice(stream, state.position, None), state.position)
        # Grouped anew, because another batch size or grouping may find batches among them.
        waited = sorted(pick for group in state.waiting for pick in group)
        waiting: list[list[SampleIndex]] = [[] for _ in range(max(self.groups or [0]) + 1)]
        for (position, index), after in chain(
            ((pick, state.position) for pick in waited),
            ((pick, pick[0] + 1) for pick in numbered),
        ):
            group = waiting[self.groups[index] if self.groups else 0]
            group.append((position, int(index)))
            if len(group) == self.batch_size:
                batch = group[:]
                group.clear()
                yield self._part(batch), SamplerState(after, [list(group) for group in waiting])

    def _part(self, batch: list[SampleIndex]) -> list[SampleIndex]:
        return batch[self.rank :: self.world_size]


def aspect_groups(records: Sequence[dict[str, Any]]) -> list[int]:
    """0 for records of images wider than high, else 1: as detectron2 groups them."""
    return [0 if record["width"] > record["height"] else 1 for record in records]
