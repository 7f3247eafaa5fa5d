"""A model for use: the same predictions, sooner."""

import copy
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.layers import ROIAlign
from torch import Tensor, nn

from ...errors import ConfigError
from ...kernels.capabilities import can_pack
from ...kernels.packed_conv import InferenceConv2d, replace_convolutions
from ...kernels.roi_align import RowROIAlign
from ...modeling.meta_arch.protocol import example_of, has_inputs, inputs_of, takes_image_alone
from ..engines.aot import AOTEngine, load_packages
from ..engines.build import build_engine, parts_of, run_in_engine
from ..engines.openvino import OpenVINOEngine, load_integer_parts
from ..engines.stored import StoredPart
from .blocks import fuse_blocks
from .fold import fold_norms
from .heads import (
    flatten_channels_last,
    fuse_mask_heads,
    map_sizes_of_masks,
    replace_wide_linears,
)
from .neck import InferenceFPN
from .pooler import pool_for_inference
from .precision import PRECISE, choose_dtype, lower_precision
from .proposals import InferenceRPN, MergedRPNHead
from .rcnn import InferenceRCNN

__all__ = ["folded_copy", "optimize_for_inference"]

# Of the black image that shows which norms follow a convolution.
_SIDE = 64
# Modules of classes that compute what detectron2's do, in ways made for training.
_TRAINING_KERNELS = frozenset(
    {
        "deepfuse_d2.kernels.tiled_convolution",
        "deepfuse_d2.kernels.folded_conv",
    }
)


@torch.no_grad()
def optimize_for_inference(
    model: nn.Module,
    dtype: torch.dtype | str = torch.float32,
    compile: bool | str | Callable = False,
    *,
    engine: str = "native",
    score_threshold: float | None = None,
    folder: str | os.PathLike | None = None,
) -> nn.Module:
    """Return a faster model for inference with the predictions of `model`, which stays as it is.

    Works on any model; most is gained on detectron2's GeneralizedRCNN, where also proposals, the
    pooling of boxes and the pasting of masks are replaced, by code that computes the same. In
    float32 predictions differ by rounding. What the result has no equivalent for (a class of its
    own, a hook) stays as it is in `model`.

    The result is for the device that `model` is on, cannot be trained, and on a CPU neither copied
    nor saved: its filters have a layout of their own. Keep `model` for that.

    Args:
        model: detectron2's or ours, on its device.
        dtype: of convolutions and linear layers: "float32", "bfloat16", "float16" (GPUs), or "auto"
            for bfloat16 where the hardware has it and float32 elsewhere; also torch's constants.
            "int8" takes the parts that ``deepfuse pack --int8`` calibrated, see `folder`, with the
            engine "openvino", and computes the others in float32.
            Coordinates, scores and class logits stay float32.
        compile: hand the networks in the model (backbone and heads) to ``torch.compile``. True
            takes its default backend, which needs a C++ compiler on a CPU; or name a backend. The
            first image of each size then takes a minute or so.
        engine: what computes the dense parts, see :mod:`deepfuse_d2.inference.engines`: "native"
            for modules of ours, "auto" for the fastest of what is installed, or its name. A part
            that an engine cannot take stays in "native", which the log says. "aot" needs `folder`.
        score_threshold: detections with a lower score are dropped before their masks are computed;
            None keeps the threshold of the model. It can only rise.
        folder: the model folder that `model` is of, for parts that lie in it ready: packages of
            the engine "aot", which executes them, and parts in 8-bit integers.

    Example:
        >>> fast = optimize_for_inference(model, "auto")
        >>> fast([{"image": image, "height": 1024, "width": 2048}])[0]["instances"]
    """
    if any(isinstance(module, InferenceConv2d) for module in model.modules()):
        raise ConfigError(
            "optimize_for_inference was given a model that it has made already; give the original."
        )
    device = next(model.parameters()).device
    integers = dtype == "int8"
    dtype = choose_dtype("float32" if integers else dtype, device)
    # the compiler arranges filters and fuses operations itself
    pack = can_pack(device) and not compile
    runtime = build_engine(engine, device)
    if runtime is not None and compile:
        raise ConfigError(f'Choose engine="{engine}" or compile={compile!r}, not both.')

    stored = _stored_parts(engine, folder, device, dtype, integers)
    model, folded = folded_copy(model)
    backbone = getattr(model, "backbone", None)
    sources = parts_of(model) if runtime is not None else {}
    if engine == AOTEngine.name:
        sources = {path: source for path, source in sources.items() if path in stored}
    flatten_channels_last(model)
    for module in model.modules():
        if type(module) is ROIAlign:
            module.__class__ = RowROIAlign
    _replace(model, MergedRPNHead.fits, lambda head: MergedRPNHead(head, pack=pack))
    map_sizes = map_sizes_of_masks(model)
    if pack:
        fuse_mask_heads(model, dtype=dtype, pack=pack)
        if dtype is torch.float32:
            replace_wide_linears(model, pack=pack)
        pool_for_inference(model, dtype)
    convolutions = replace_convolutions(
        model, dtype=dtype, pack=pack, precise=PRECISE, map_sizes=map_sizes
    )
    fuse_blocks(model)
    if InferenceFPN.fits(backbone):
        InferenceFPN.take_over(backbone)
    model.to(memory_format=torch.channels_last)
    if dtype is not torch.float32:
        lower_precision(model, dtype)
    if InferenceRCNN.fits(model):
        if InferenceRPN.fits(model.proposal_generator):
            model.proposal_generator = InferenceRPN(model.proposal_generator)
        model = InferenceRCNN.of(model)
    if score_threshold is not None:
        _raise_threshold(model, score_threshold)
    if compile:
        _compile(model, compile)
    if runtime is not None:
        run_in_engine(model, sources, runtime, dtype, fastest=engine == "auto", stored=stored)
    logging.getLogger(__name__).info(
        "For inference: %d norms folded, %d convolutions, %s on %s%s",
        folded, convolutions, dtype, device, ", compiled" if compile else "",
    )  # fmt: skip
    return model


def folded_copy(model: nn.Module) -> tuple[nn.Module, int]:
    """A copy in evaluation with its norms folded, and their number: what all else starts from."""
    model = copy.deepcopy(_unwrap(model)).eval().requires_grad_(False)
    _take_off_training_kernels(model)
    return model, fold_norms(model, *_observable(model))


def _stored_parts(
    engine: str,
    folder: str | os.PathLike | None,
    device: torch.device,
    dtype: torch.dtype,
    integers: bool,
) -> dict[str, StoredPart]:
    if integers:
        if engine != OpenVINOEngine.name:
            raise ConfigError(
                f'dtype="int8" was given with engine="{engine}"; it goes with engine="openvino" '
                "and a model folder that deepfuse pack --int8 wrote."
            )
        if folder is None:
            raise ConfigError(
                'dtype="int8" takes what was calibrated before: give a model folder that deepfuse '
                "pack --int8 wrote, by Predictor(folder)."
            )
        return load_integer_parts(folder)
    if engine != AOTEngine.name:
        return {}
    if folder is None:
        raise ConfigError(
            f'engine "{engine}" runs what was compiled before: give a model folder that deepfuse '
            "pack --aot wrote, by Predictor(folder) or optimize_for_inference(model, folder=...)."
        )
    return load_packages(Path(folder), device, dtype)


def _observable(model: nn.Module) -> tuple[nn.Module, Callable[[], object]] | tuple[None, None]:
    """Of a model, what can be run on a small black image, and how: its network, or its backbone."""
    if not has_inputs(model):
        return None, None

    def inputs() -> dict[str, Tensor]:
        return inputs_of(model, [example_of(model, _SIDE, _SIDE)])

    if takes_image_alone(model):
        return model.backbone, lambda: model.backbone(inputs()["image"])
    if callable(getattr(model, "outputs", None)):
        return model, lambda: model.outputs(inputs())
    return None, None


def _take_off_training_kernels(model: nn.Module) -> None:
    """Undo what ``engine.fast_kernels`` did to the classes of a model that was to be trained."""
    for module in model.modules():
        if type(module).__module__ in _TRAINING_KERNELS:
            bases = type(module).__mro__
            module.__class__ = next(x for x in bases if x.__module__.startswith("detectron2."))


def _replace(
    model: nn.Module,
    fits: Callable[[nn.Module], bool],
    make: Callable[[nn.Module], nn.Module],
) -> None:
    """Put `make(module)` in the place of every module that fits."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if fits(module):
                setattr(parent, name, make(module))


def _raise_threshold(model: nn.Module, threshold: float) -> None:
    """In every box predictor; a cascade has one for each stage."""
    found = False
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = max(threshold, module.test_score_thresh)
            found = True
    if not found:
        raise ConfigError(
            f"score_threshold={threshold} was given for a {type(model).__name__}, which gives no "
            "scored boxes; leave it out."
        )


def _compile(model: nn.Module, backend: bool | str | Callable) -> None:
    options = {} if backend is True else {"backend": backend}
    heads = getattr(model, "roi_heads", None)
    proposals = getattr(model, "proposal_generator", None)
    places = [
        (model, "backbone"),
        (model, "sem_seg_head"),
        (proposals, "rpn_head"),
        (heads, "box_head"),
        (getattr(heads, "mask_head", None), "deconv"),
    ]
    for owner, name in places:
        part = getattr(owner, name, None)
        if isinstance(part, nn.Module):
            part.compile(**options)


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
