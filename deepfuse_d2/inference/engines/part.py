"""A part of a model that an engine computes, held against the part itself on its first inputs."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .interface import Engine, Run
from .stored import StoredPart

__all__ = ["TOLERANCE", "FlatPart", "PartInEngine", "difference_of"]

_log = logging.getLogger(__name__)

# Shapes of inputs on which both are computed and compared. A trace may have taken a size of its
# example for a constant, which another size shows.
_COMPARED = 3
#: Largest difference to the part itself, see :func:`difference_of`. What integers cost is measured
#: when they are written; here they need only be the part's.
TOLERANCE = {
    torch.float32: 1e-3,
    torch.bfloat16: 0.1,
    torch.float16: 0.05,
    torch.int8: 0.5,
}


class PartInEngine:
    """Computes what a function of a module does: tensors in lists and mappings in, the same out.

    It is compiled for the first inputs. On the first shapes, the result and the time are held
    against those of `native`: an engine that fails, differs, or is slower where `fastest` is asked
    for, gives way to it for good, which the log says.

    Args:
        name: of the part, for the log.
        source: what is compiled; norms are folded, nothing else is changed.
        native: the same by the modules of the model.
        engine: what computes.
        dynamic: dimensions of the inputs that differ from call to call.
        dtype: see :meth:`.interface.Engine.compile`.
        native_dtype: what `native` computes in where that is less; by default `dtype`.
        fastest: also give way where `native` takes less time.
        after: calls that `native` answers before the part is compiled: few images are not worth it.
        stored: the part, compiled before and compared with its source then. It is compared once
            more, on the first inputs cut to the smallest that it takes, so that the first
            image need not wait for `native`; smaller inputs are computed there.
    """

    def __init__(
        self,
        name: str,
        source: Callable[..., Any],
        native: Callable[..., Any],
        engine: Engine,
        *,
        dynamic: Sequence[int],
        dtype: torch.dtype,
        native_dtype: torch.dtype | None = None,
        fastest: bool = False,
        after: int = 0,
        stored: StoredPart | None = None,
    ):
        self.name, self.native, self.engine = name, native, engine
        self.dynamic, self.dtype, self.fastest = tuple(dynamic), dtype, fastest
        self._lowest = dtype if dtype is not torch.float32 else native_dtype or dtype
        self._waiting, self._stored = after, stored
        self._source: Callable[..., Any] | None = source
        self._run: Run | None = None
        self._structure: TreeSpec | None = None
        self._seen: set[tuple] = set()
        self._lock = threading.Lock()

    @property
    def runs_in(self) -> str:
        """Name of the engine, or "native" once it has given way."""
        return "native" if self._source is None and self._run is None else self.engine.name

    @torch.no_grad()
    def __call__(self, *args: Any) -> Any:
        """What ``native(*args)`` gives."""
        inputs, structure = tree_flatten(args)
        inputs = [x.float() for x in inputs]
        if self.runs_in == "native" or any(x.numel() == 0 for x in inputs):
            return self.native(*args)
        if self._waiting > 0:
            self._waiting -= 1
            return self.native(*args)
        shapes = tuple(tuple(x.shape) for x in inputs)
        if self._stored is not None:
            if self._is_too_small(shapes):
                return self.native(*args)
            if self._run is None:
                with self._lock:
                    self._take_stored(inputs, structure)
                if self._run is None:
                    return self.native(*args)
        elif self._run is None or (len(self._seen) < _COMPARED and shapes not in self._seen):
            with self._lock:
                return self._compare(args, inputs, structure, shapes)
        return tree_unflatten(self._run(*inputs), self._structure)

    def _compare(
        self, args: tuple, inputs: list[Tensor], structure: TreeSpec, shapes: tuple
    ) -> Any:
        expected, own_time = _timed(lambda: self.native(*args), inputs[0].device)
        if self.runs_in == "native":  # another thread has found so
            return expected
        leaves, self._structure = tree_flatten(expected)
        try:
            if self._run is None:
                example = [x.contiguous() for x in inputs]
                part = FlatPart(self._source, structure)
                self._run = self.engine.compile(part, example, self.dynamic, self.dtype)
                self._run(*inputs)  # what is set up at the first call
            found, its_time = _timed(lambda: self._run(*inputs), inputs[0].device)
            difference = difference_of(found, leaves, self._lowest)
        except Exception as error:  # engines raise whatever they like
            self._give_way(f"{type(error).__name__}: {error}")
            return expected
        if not difference <= TOLERANCE[self._lowest]:
            self._give_way(f"its result for {shapes} differs by {difference:.1e}")
            return expected
        if self.fastest and not self._seen:
            # both once more: the first run of `native` sets up too
            again = _timed(lambda: self.native(*args), inputs[0].device)[1]
            own_time = min(own_time, again)
            if its_time >= own_time:
                self._give_way(f"{1e3 * its_time:.0f} ms, ours {1e3 * own_time:.0f} ms")
                return expected
        if not self._seen:
            _log.info(
                "%s in %s: %.0f ms, ours %.0f ms", self.name, self.engine.name, 1e3 * its_time,
                1e3 * own_time,
            )  # fmt: skip
        self._seen.add(shapes)
        if len(self._seen) == _COMPARED:
            self._source = nn.Identity()  # its weights are in the engine
        return tree_unflatten(found, self._structure)

    def _is_too_small(self, shapes: tuple) -> bool:
        # inputs of another number or rank are those of another model, which comes out below
        assert self._stored is not None
        return any(
            d < min(len(shape), len(least)) and shape[d] < least[d]
            for shape, least in zip(shapes, self._stored.least, strict=False)
            for d in self.dynamic
        )

    def _take_stored(self, inputs: list[Tensor], structure: TreeSpec) -> None:
        if self.runs_in == "native" or self._run is not None:  # another thread was here
            return
        assert self._stored is not None
        assert self._source is not None
        try:
            probe = [_cut(x, size) for x, size in zip(inputs, self._stored.least, strict=True)]
            expected = self._source(*tree_unflatten(probe, structure))
            leaves, self._structure = tree_flatten(expected)
            difference = difference_of(self._stored.run(*probe), leaves, self.dtype)
        except Exception as error:  # engines raise whatever they like
            self._give_way(f"{type(error).__name__}: {error}")
            return
        if not difference <= TOLERANCE[self.dtype]:
            self._give_way(f"it is of another model, its result differs by {difference:.1e}")
            return
        self._run, self._source = self._stored.run, nn.Identity()

    def _give_way(self, reason: str) -> None:
        level = logging.INFO if self.fastest else logging.WARNING
        lines = [line.strip() for line in reason.splitlines() if line.strip()]
        # inductor: "BackendCompilerFailed: backend='inductor' raised:", and below it what
        told = lines[: 2 if lines and lines[0].endswith(":") else 1]
        _log.log(
            level, "%s stays out of the engine %s: %s", self.name, self.engine.name, " ".join(told)
        )
        self._source = self._run = None


class FlatPart(nn.Module):
    """A function of lists and mappings as a module of tensors."""

    def __init__(self, function: Callable[..., Any], structure: TreeSpec):
        super().__init__()
        # a module that is looked for, so that its weights are found
        owner = getattr(function, "__self__", None)
        self.owner = owner if isinstance(owner, nn.Module) else None
        self.function, self.structure = function, structure
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tree_flatten(self.function(*tree_unflatten(inputs, self.structure)))[0])


def _timed(run: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """The result, and the seconds it took."""
    start = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def difference_of(
    found: Sequence[Tensor], expected: Sequence[Tensor], dtype: torch.dtype = torch.float32
) -> float:
    """The largest of a tensor, as a fraction of the largest value of the tensor.

    In bfloat16 and float16, where the largest of millions of differences tells nothing, of the
    root mean square of the tensor, as root mean squares.
    """
    measure = _root_mean_square if dtype in (torch.bfloat16, torch.float16) else _largest
    return max(
        (_relative(a, b, measure) for a, b in zip(found, expected, strict=True)), default=0.0
    )


def _cut(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of a tensor: as natural an input as the whole."""
    for dimension, count in enumerate(size):
        x = x.narrow(dimension, (x.shape[dimension] - count) // 2, count)
    return x.contiguous()


def _relative(found: Tensor, expected: Tensor, measure: Callable[[Tensor], Tensor]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    found, expected = found.float(), expected.float()
    return float(measure(found - expected) / measure(expected).clamp(min=1e-6))


def _largest(x: Tensor) -> Tensor:
    return x.abs().max()


def _root_mean_square(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()
