"""Dense parts in 8-bit integers: calibrated by NNCF on images, measured, refused where they harm.

Post-training quantisation: ranges of weights and of maps are found on a few hundred images, and
convolutions and linear layers multiply bytes, for which CPUs have instructions of their own
(AVX-512 VNNI, AMX). What is ranked (the head of the RPN, of a RetinaNet), boxes' last layers and
the last layer of each head of masks or pixels stay in float32.

A part is a graph of OpenVINO, int8-PART.xml with its numbers in int8-PART.bin: data, which is
interpreted and not executed.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import ConfigError, UserError
from .dense_parts import example_batches, record_inputs, smallest_inputs
from .engines.build import ENGINES, PARTS, PRECISE, kind_of, parts_of
from .engines.openvino import INT8_RECORD, as_graph, compile_graph
from .engines.part import TOLERANCE, difference_of
from .engines.stored import write_record
from .optimize.model import folded_copy, optimize_for_inference

__all__ = ["Costs", "Quantization", "quantize"]

_log = logging.getLogger(__name__)

# Figures that count, of all that an evaluator gives; in percent.
_FIGURES = ("AP", "mIoU", "IoU", "PQ")
# Regions of an image that heads are calibrated on, which are kept: with 300 images and maps of 256
# channels a gigabyte.
_REGIONS = 16
_TIMED_IMAGES, _ROUNDS = 4, 3


@dataclass(frozen=True)
class Quantization:
    """How a model is brought to integers.

    Args:
        images: what the model takes for an image each, to calibrate on; a few hundred.
        evaluate: model -> {task: {figure: value}}, on images that are not among `images`.
        limit: points that a figure may fall by.
    """

    images: Sequence[dict[str, Any]]
    evaluate: Callable[[nn.Module], Mapping[str, Any]]
    limit: float = 0.5


@dataclass(frozen=True)
class Costs:
    """What integers cost and give.

    Args:
        figures: "task figure" -> before and after.
        milliseconds: of an image, before and after, OpenVINO both times; medians.
        ratio: of times before to times after, the median of those taken in turns.
        megabytes: of the weights of the parts, before and after.
    """

    figures: Mapping[str, tuple[float, float]]
    milliseconds: tuple[float, float]
    ratio: float
    megabytes: tuple[float, float]

    @property
    def loss(self) -> float:
        """Points that the figure that falls most falls by."""
        return max((before - after for before, after in self.figures.values()), default=0.0)

    def table(self) -> str:
        """As Markdown."""
        rows = [
            (name, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}")
            for name, (before, after) in self.figures.items()
        ]
        before, after = self.milliseconds
        rows.append(("ms an image", f"{before:.0f}", f"{after:.0f}", f"{self.ratio:.2f} times"))
        before, after = self.megabytes
        rows.append(("MB of these parts", f"{before:.1f}", f"{after:.1f}", ""))
        lines = ["| | float32 | int8 | |", "|---|---:|---:|---:|"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


@torch.no_grad()
def quantize(model: nn.Module, folder: Path, how: Quantization) -> tuple[list[str], Costs]:
    """Write the parts of a model in integers into a folder; return names of files, and the costs.

    Args:
        model: on the CPU, in float32.
        folder: of the model.

    Raises:
        ConfigError: something is missing for it.
        UserError: a figure falls by more than the limit; the table is in the message.
    """
    _check(model, how)
    source, _ = folded_copy(model)
    parts = {path: x for path, x in parts_of(source).items() if kind_of(path) not in PRECISE}
    # that of examples has thresholds of its own
    examples = copy.deepcopy(source)
    smallest = record_inputs(examples, parts, example_batches(examples)[-1])
    written = {}
    for path, example in smallest.items():
        dynamic = PARTS[kind_of(path)]
        inputs = _Inputs(source, parts, path, how.images)
        first = next(iter(inputs), None)
        if first is None:
            _log.warning("%s stays in float32: no image reaches it", path)
            continue
        graph = _quantized(as_graph(example.flat, example.inputs, dynamic), path, inputs)
        difference = _difference(graph, example.flat, first)
        if not difference <= TOLERANCE[torch.int8]:
            _log.warning("%s stays in float32: in integers it differs by %.1g", path, difference)
            continue
        names = _save(graph, folder, path)
        written[path] = (names, smallest_inputs(example, dynamic).shapes)
    if not written:
        raise UserError(
            f"No part of this {type(model).__name__} can be brought to 8-bit integers, see the log."
        )
    facts = {"version": 1, "made_with": _versions(), "images": len(how.images)}
    write_record(folder / INT8_RECORD, written, facts)
    costs = _measure(model, folder, how, [parts[path] for path in written])
    if costs.loss > how.limit:
        raise UserError(
            f"In 8-bit integers a figure falls by {costs.loss:.2f}, more than the limit of "
            f"{how.limit:g}, so the model was not packed:\n\n{costs.table()}\n\nCalibrate on more "
            "images of the kind that it will see, raise the limit, or pack without --int8."
        )
    return [INT8_RECORD, *(name for names, _ in written.values() for name in names)], costs


def _check(model: nn.Module, how: Quantization) -> None:
    reason = ENGINES["openvino"].why_not(next(model.parameters()).device)
    if not reason and importlib.util.find_spec("nncf") is None:
        reason = "the package nncf is missing: pip install 'deepfuse-d2[int8]'"
    if reason:
        raise ConfigError(f"8-bit integers cannot be calibrated: {reason}.")
    if not how.images:
        raise ConfigError("8-bit integers are calibrated on images, and none were given.")


class _Inputs:
    """Inputs of a part, of one image after the other, as often as they are asked for."""

    def __init__(
        self, model: nn.Module, parts: Mapping[str, nn.Module], path: str, images: Sequence[dict]
    ):
        self.model, self.parts, self.path, self.images = model, parts, path, images
        self.regions = PARTS[kind_of(path)] == (0,)
        # regions are few numbers, and come from the whole network
        self.kept: list[list[np.ndarray]] = []

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        if self.regions and not self.kept:
            self.kept = list(self._computed())
        yield from self.kept or self._computed()

    def _computed(self) -> Iterator[list[np.ndarray]]:
        for image in self.images:
            found = record_inputs(self.model, self.parts, [image], until=self.path).get(self.path)
            if found is None or not len(found.inputs[0]):
                continue  # nothing was found in the image
            count = len(found.inputs[0])
            # the best come first
            rows = slice(None, None, -(-count // _REGIONS)) if self.regions else slice(None)
            yield [x[rows].contiguous().numpy() for x in found.inputs]


def _quantized(graph, path: str, inputs: _Inputs):
    # or it reports its use to the network
    os.environ.setdefault("NNCF_CI", "1")
    import nncf

    last = _last_layers(graph) if kind_of(path) in ("roi_heads.mask_head", "sem_seg_head") else []
    return nncf.quantize(
        graph,
        nncf.Dataset(inputs),
        subset_size=len(inputs.images),
        ignored_scope=nncf.IgnoredScope(names=last),
    )


def _difference(graph, part: nn.Module, arrays: Sequence[np.ndarray]) -> float:
    inputs = [torch.from_numpy(x) for x in arrays]
    return difference_of(compile_graph(graph, torch.float32)(*inputs), part(*inputs))


def _last_layers(graph) -> list[str]:
    """Names of the convolutions that an output comes from."""
    names, waiting = [], [result.input_value(0).get_node() for result in graph.get_results()]
    while waiting:
        node = waiting.pop()
        if node.get_type_name() in ("Convolution", "MatMul", "GroupConvolution"):
            names.append(node.get_friendly_name())
        else:
            waiting += [value.get_node() for value in node.input_values()]
    return names


def _save(graph, folder: Path, path: str) -> tuple[str, str]:
    import openvino

    names = (f"int8-{path}.xml", f"int8-{path}.bin")
    openvino.save_model(graph, folder / names[0], compress_to_fp16=False)
    return names


def _measure(
    model: nn.Module, folder: Path, how: Quantization, parts: Sequence[nn.Module]
) -> Costs:
    plain = optimize_for_inference(model, engine="openvino")
    integers = optimize_for_inference(model, "int8", engine="openvino", folder=folder)
    before, after = (_figures(how.evaluate(each)) for each in (plain, integers))
    times = _times(plain, integers, how.images)
    milliseconds = [1e3 * statistics.median(one) for one in zip(*times, strict=True)]
    weights = sum(4 * x.numel() for part in parts for x in part.parameters())
    written = sum(file.stat().st_size for file in folder.glob("int8-*"))
    return Costs(
        {name: (value, after[name]) for name, value in before.items()},
        (milliseconds[0], milliseconds[1]),
        statistics.median(x / y for x, y in times),
        (weights / 1e6, written / 1e6),
    )


def _figures(results: Mapping[str, Any], task: str = "") -> dict[str, float]:
    """Those of :data:`_FIGURES`, by task, and data set if there are several."""
    found: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            found |= _figures(value, f"{task} {name}".strip())
        elif name in _FIGURES and value == value:
            found[f"{task} {name}".strip()] = float(value)
    return found


def _times(
    first: nn.Module, second: nn.Module, images: Sequence[dict]
) -> list[tuple[float, float]]:
    """Seconds of both for one image after the other, in turns."""
    chosen = [images[i] for i in range(0, len(images), max(1, len(images) // _TIMED_IMAGES))]
    pairs = []
    for number in range(_ROUNDS + 1):
        for image in chosen[:_TIMED_IMAGES]:
            seconds = {}
            # neither always follows the other
            for model in (first, second) if number % 2 else (second, first):
                start = time.perf_counter()
                model([image])
                seconds[model] = time.perf_counter() - start
            pairs.append((seconds[first], seconds[second]))
    return pairs[len(chosen[:_TIMED_IMAGES]) :]


def _versions() -> dict[str, str]:
    import nncf
    import openvino

    return {"nncf": nncf.__version__, "openvino": openvino.__version__}
