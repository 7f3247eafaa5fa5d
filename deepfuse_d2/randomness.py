"""The states of all random number generators of a process: keep them, set them, borrow them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["get_random_state", "seeded", "set_random_state", "untouched_random_state"]


def get_random_state() -> dict[str, Any]:
    """States of python's, NumPy's and torch's generators, and of the current CUDA device's.

    Tensors and plain containers alone, so that a checkpoint which holds them stays one that is read
    without running code.
    """
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    state = {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set what :func:`get_random_state` gave; a state of CUDA is left out where there is none."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def untouched_random_state() -> Iterator[None]:
    """After it, all generators are as before it, whatever was drawn in between."""
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within it, the generators on the CPU start from `numbers`; after it, they are as before.

    Args:
        numbers: 0 or more each; other numbers give independent streams.

    Example:
        >>> with seeded(7, 0):
        ...     first = np.random.rand()  # noqa: NPY002
        >>> with seeded(7, 0):
        ...     assert np.random.rand() == first  # noqa: NPY002
    """
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    python, numpy, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])  # noqa: NPY002
    # torch.manual_seed would reach into the GPU's generator as well
    torch.default_generator.manual_seed(int(seeds[2]))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torchs)
