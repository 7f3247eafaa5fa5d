"""Engines by name, and the parts of a model that they compute."""

import copy
import logging
from collections.abc import Mapping

import torch
from torch import nn

from ...errors import ConfigError
from .aot import AOTEngine
from .eager import EagerEngine
from .inductor import InductorEngine
from .interface import Engine
from .onnxruntime import ONNXRuntimeEngine, TensorRTEngine
from .openvino import OpenVINOEngine
from .part import PartInEngine
from .stored import StoredPart

__all__ = [
    "ENGINES",
    "PARTS",
    "PRECISE",
    "build_engine",
    "kind_of",
    "method_of",
    "parts_of",
    "run_in_engine",
]

#: Name -> engine. "native" is none of them: the model as optimize_for_inference makes it.
ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        EagerEngine(),
        InductorEngine(),
        AOTEngine(),
        OpenVINOEngine(),
        ONNXRuntimeEngine(),
        TensorRTEngine(),
    )
}
# Of "auto": engines that are ready in seconds, the fastest first.
_QUICK = ("openvino",)

# Images that "auto" leaves to the model itself: to compile takes as long as some of them.
_PATIENCE = 8

_IMAGES, _REGIONS = (0, 2, 3), (0,)
#: Part by path -> dimensions of its inputs that differ: images, or numbers of regions.
PARTS = {
    "backbone": _IMAGES,
    "proposal_generator.rpn_head": _IMAGES,
    "roi_heads.box_head": _REGIONS,
    "roi_heads.mask_head": _REGIONS,
    "sem_seg_head": _IMAGES,
    "head": _IMAGES,
}
#: What these give is ranked: float32, whatever the type of the rest.
PRECISE = ("proposal_generator.rpn_head", "head")


def build_engine(name: str, device: torch.device) -> Engine | None:
    """The engine of that name for models on `device`; None for "native".

    Args:
        name: a key of :data:`ENGINES`, "native", or "auto": an engine that is installed and ready
            in seconds, else "native".

    Raises:
        ConfigError: there is none of that name, or something is missing for it.
    """
    if name == "native":
        return None
    if name == "auto":
        ready = [ENGINES[x] for x in _QUICK if not ENGINES[x].why_not(device)]
        return ready[0] if ready else None
    if name not in ENGINES:
        raise ConfigError(
            f'engine "{name}" is unknown; choose one of {["auto", "native", *ENGINES]}.'
        )
    reason = ENGINES[name].why_not(device)
    if reason:
        raise ConfigError(
            f'engine "{name}": {reason}; or choose "auto", which takes what is there.'
        )
    return ENGINES[name]


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """Copies of the parts that an engine can compute, by their paths; norms should be folded."""
    modules = dict(model.named_modules())
    found = {}
    for path in PARTS:
        module = modules.get(path)
        if isinstance(module, nn.ModuleList):  # of a cascade, a head for each stage
            found |= {f"{path}.{i}": copy.deepcopy(stage) for i, stage in enumerate(module)}
        elif module is not None:
            found[path] = copy.deepcopy(module)
    return found


def kind_of(path: str) -> str:
    """The key of :data:`PARTS` of a part: of a cascade's heads without the number."""
    return path.rstrip(".0123456789")


def method_of(part: nn.Module) -> str:
    """What of a part is dense: detectron2's heads of masks and of pixels do more in forward."""
    return "layers" if callable(getattr(type(part), "layers", None)) else "forward"


def run_in_engine(
    model: nn.Module,
    sources: dict[str, nn.Module],
    engine: Engine,
    dtype: torch.dtype = torch.float32,
    *,
    fastest: bool = False,
    stored: Mapping[str, StoredPart] | None = None,
) -> None:
    """Let an engine compute the parts of a model, in place.

    Args:
        model: what predicts; its modules are what a part falls back to.
        sources: :func:`parts_of` the model before its modules were replaced.
        dtype: of convolutions and linear layers; what is ranked stays float32.
        fastest: parts that the model itself computes sooner stay there, and the first few images
            are computed there anyway.
        stored: parts that were compiled before, by their paths.
    """
    for path, source in sources.items():
        kind = kind_of(path)
        module = model.get_submodule(path)
        method = method_of(source)
        ready = (stored or {}).get(path)
        part = PartInEngine(
            path,
            getattr(source, method),
            getattr(module, method),
            engine,
            dynamic=PARTS[kind],
            dtype=ready.dtype if ready else torch.float32 if kind in PRECISE else dtype,
            native_dtype=dtype,
            fastest=fastest,
            after=_PATIENCE if fastest else 0,
            stored=ready,
        )
        # in the module's place it would have to answer for all of its attributes
        setattr(module, method, part)
    logging.getLogger(__name__).debug("%s computes %s", engine.name, ", ".join(sources))
