"""The dense parts of a packed model, compiled for this machine: see engines/aot.py."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from ..errors import ConfigError
from .dense_parts import Recorded, example_batches, record_inputs, smallest_inputs
from .engines import aot
from .engines.build import PARTS, kind_of, parts_of
from .engines.part import TOLERANCE, difference_of
from .engines.stored import write_record
from .optimize.model import folded_copy

__all__ = ["compile_ahead"]

_log = logging.getLogger(__name__)


@torch.no_grad()
def compile_ahead(model: nn.Module, folder: Path) -> dict[str, Path]:
    """Write a package of each dense part into a model folder; return them by paths of the parts.

    Each is compared with the part at several sizes, numbers of images and of regions. What torch
    cannot take, or gets wrong, is left out, which the log says.

    Args:
        model: of the folder, on the device that the packages are for, in float32.

    Raises:
        ConfigError: this machine or torch cannot, or no part of the model can be compiled.
    """
    device = next(model.parameters()).device
    reason = aot.why_not_write(device)
    if reason:
        raise ConfigError(f"No packages can be written ahead of time: {reason}.")
    model, _ = folded_copy(model)
    sources = parts_of(model)
    recorded = [record_inputs(model, sources, batch) for batch in example_batches(model)]
    place = folder / aot.FOLDER
    unfinished = folder / f"{aot.FOLDER}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    parts = {}
    for path in tqdm(sources, desc="Parts compiled"):
        examples = [found[path] for found in recorded if path in found]
        if len(examples) < len(recorded):
            _log.warning("%s was not reached, and stays as it is", path)
            continue
        file = unfinished / f"{path}.pt2"
        try:
            least = _write(examples, PARTS[kind_of(path)], file)
        except Exception as error:  # torch's compilers raise whatever they like
            file.unlink(missing_ok=True)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            _log.warning("%s is not compiled, and stays as it is: %s", path, reason)
            continue
        parts[path] = ((file.name,), least)
    if not parts:
        raise ConfigError(
            f"No part of this {type(model).__name__} could be compiled ahead of time, see the log."
        )
    facts = {"version": 1, "made_for": aot.made_for(device, torch.float32)}
    write_record(unfinished / aot.RECORD, parts, facts)
    shutil.rmtree(place, ignore_errors=True)
    os.rename(unfinished, place)
    return {path: place / files[0] for path, (files, _) in parts.items()}


def _write(
    examples: Sequence[Recorded], dynamic: Sequence[int], file: Path
) -> tuple[tuple[int, ...], ...]:
    """Write and open a package; return the smallest inputs that it was compared on."""
    smallest = smallest_inputs(examples[-1], dynamic)
    aot.write_package(examples[0].flat, examples[0].inputs, dynamic, file)
    run = aot.open_package(file)
    for example in (*examples, smallest):
        difference = difference_of(run(*example.inputs), example.flat(*example.inputs))
        if not difference <= TOLERANCE[torch.float32]:
            raise ValueError(f"for {example.shapes} its result differs by {difference:.1e}")
    return smallest.shapes
