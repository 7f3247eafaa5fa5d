"""Models as files for other runtimes: TorchScript, torch.export and ONNX.

    format         file    runs in                                              parts
    torchscript    .ts     torch in python or C++ (libtorch), torchvision       all
    torch_export   .pt2    torch in python; the start of AOTInductor and others all but the last two
    onnx           .onnx   onnxruntime and others                               all

The whole of an R-CNN or a Panoptic FPN is no graph for torch.export, because the path through its
code depends on how many objects were found. TorchScript records it by a trace, which is
detectron2's own way, and so does ONNX, through torch's older exporter; everything else goes to ONNX
through torch.export.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from detectron2.export.torchscript_patch import patch_builtin_len
from torch import Tensor

from ...errors import ConfigError, WeightsError
from ...files import written_whole
from ...kernels.capabilities import kernels_in_python
from .graphs import ExportGraph

__all__ = ["FORMATS", "difference", "export_graph", "load_exported"]

# Of the older exporter: 16 is the first with the RoIAlign of half a pixel's shift.
_OPSET = 17


def export_graph(graph: ExportGraph, file: str | os.PathLike) -> None:
    """Write a graph; the ending of `file` says in which format, one of `FORMATS`.

    Images may have any size from some pixels on, and any number where the graph takes several.

    Raises:
        ConfigError: the format is not known, cannot hold the graph, or needs packages that are
            missing.

    Example:
        >>> export_graph(build_graph(model), "model.onnx")
    """
    file = Path(file)
    export = _look_up(file)[0]
    with torch.no_grad(), _quiet(), written_whole(file) as temporary:
        # Written files know their name: an archive of torch has it as its folder.
        named = temporary.with_name(f"{temporary.name}{file.suffix}")
        try:
            export(graph, named)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)


def load_exported(file: str | os.PathLike) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """What was written, as a function of the image that gives what the graph does, on the CPU.

    Files of torch can run code; load none that comes from strangers.
    """
    file = Path(file)
    load = _look_up(file)[1]
    if not file.is_file():
        raise WeightsError(f"{file} does not exist; deepfuse export writes such files.")
    with _quiet():
        return load(file)


def difference(
    found: tuple[Tensor, ...], expected: tuple[Tensor, ...], part: str
) -> dict[str, float]:
    """How far two outputs of a graph are apart.

    Of maps: "difference", the largest, as a fraction of the largest value of the map that it is in.
    Of detections: the same of those that both have, and "unmatched", the fraction of all that one
    alone has. Last digits decide whether a box of a score at the threshold is kept, so some may be.
    """
    if part == "panoptic":
        detections = difference(found[:-1], expected[:-1], "detector")
        maps = difference(found[-1:], expected[-1:], "semantic")
        largest = max(detections["difference"], maps["difference"])
        return {**detections, "difference": largest}
    if part != "detector":
        if any(a.shape != b.shape for a, b in zip(found, expected, strict=True)):
            return {"difference": float("inf")}
        pairs = zip(found, expected, strict=True)
        return {"difference": max((_relative(a, b) for a, b in pairs), default=0.0)}
    matches = _match(found, expected)
    total = max(len(found[0]), len(expected[0]), 1)
    unmatched = max(len(found[0]), len(expected[0])) - len(matches)
    if not matches:
        return {"difference": 0.0, "unmatched": unmatched / total}
    ours, theirs = (torch.tensor(indices) for indices in zip(*matches, strict=True))
    pairs = zip(found, expected, strict=True)
    return {
        "difference": max(_relative(a[ours], b[theirs]) for a, b in pairs),
        "unmatched": unmatched / total,
    }


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a fraction of the largest value; nan counts as infinity."""
    if expected.numel() == 0:
        return 0.0
    found, expected = found.double(), expected.double()
    apart = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    return apart if apart == apart else float("inf")


def _match(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> list[tuple[int, int]]:
    """Pairs of detections of one class whose corners are within half a pixel, best scores first."""
    free = torch.ones(len(found[0]), dtype=torch.bool)
    pairs = []
    for j, (box, _, label, *_) in enumerate(zip(*expected, strict=True)):
        if not len(free):
            break
        far = (found[0] - box).abs().amax(dim=1)
        far = far.masked_fill(~free | (found[2] != label), float("inf"))
        i = int(far.argmin())
        if far[i] <= 0.5:
            free[i] = False
            pairs.append((i, j))
    return pairs


# The three formats --------------------------------------------------------------------------------


def _write_torchscript(graph: ExportGraph, file: Path) -> None:
    with patch_builtin_len():
        traced = torch.jit.trace(graph, (graph.sample(),), strict=False, check_trace=False)
    torch.jit.save(traced, str(file))


def _read_torchscript(file: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    import torchvision  # noqa: F401  (registers the operators of an R-CNN)

    module = torch.jit.load(str(file), map_location="cpu")
    return _without_gradients(module)


def _write_torch_export(graph: ExportGraph, file: Path) -> None:
    torch.export.save(_exported(graph), str(file))


def _read_torch_export(file: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return _without_gradients(torch.export.load(str(file)).module())


def _write_onnx(graph: ExportGraph, file: Path) -> None:
    onnx = _import("onnx")
    dimensions = {i: name for i, name in enumerate(_dimensions(graph)) if name in graph.dynamic}
    if graph.counted:
        axes = {
            name: {0: "n"} if name in graph.counted else {1: "height", 2: "width"}
            for name in graph.outputs
        }
        with patch_builtin_len():
            torch.onnx.export(
                graph,
                (graph.sample(),),
                str(file),
                dynamo=False,
                opset_version=_OPSET,
                input_names=["image"],
                output_names=list(graph.outputs),
                dynamic_axes={"image": dimensions, **axes},
            )
    else:
        _import("onnxscript")
        exported = _exported(graph)
        with kernels_in_python():
            program = torch.onnx.export(
                exported,
                (),
                input_names=["image"],
                output_names=list(graph.outputs),
                dynamo=True,
                verbose=False,
            )
        program.save(str(file))
    onnx.checker.check_model(str(file))


def _read_onnx(file: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    onnxruntime = _import("onnxruntime")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(x) for x in session.run(None, {"image": image.numpy()}))

    return run


def _exported(graph: ExportGraph) -> torch.export.ExportedProgram:
    if graph.counted:
        raise ConfigError(
            "torch.export cannot take a whole R-CNN: the path through its code depends on how many "
            'objects were found. Export it as .ts or .onnx, or its part "rpn".'
        )
    dynamic = torch.export.Dim.DYNAMIC
    dimensions = {i: dynamic for i, name in enumerate(_dimensions(graph)) if name in graph.dynamic}
    return torch.export.export(graph, (graph.sample(),), dynamic_shapes=({**dimensions},))


def _dimensions(graph: ExportGraph) -> tuple[str, ...]:
    names = ("channels", "height", "width")
    return ("batch", *names) if "batch" in graph.dynamic else names


#: Ending of a file -> how it is written, and how it is read.
FORMATS: dict[str, tuple[Callable, Callable]] = {
    ".ts": (_write_torchscript, _read_torchscript),
    ".pt2": (_write_torch_export, _read_torch_export),
    ".onnx": (_write_onnx, _read_onnx),
}


def _look_up(file: Path) -> tuple[Callable, Callable]:
    if file.suffix not in FORMATS:
        raise ConfigError(
            f'The name "{file.name}" does not tell the format; it ends in one of {list(FORMATS)}.'
        )
    return FORMATS[file.suffix]


def _import(name: str):
    try:
        return __import__(name)
    except ImportError as error:
        raise ConfigError(
            f"ONNX needs the package {name}, which is not installed: pip install "
            "'deepfuse-d2[export]', or choose another format."
        ) from error


def _without_gradients(run: Callable) -> Callable[[Tensor], tuple[Tensor, ...]]:
    def call(image: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(run(image))

    return call


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings: of deprecation, and of what detectron2 does on purpose."""
    names = ("torch.onnx", "torch.export", "torch.fx", "torch.fx._symbolic_trace")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
