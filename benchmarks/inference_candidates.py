"""What benchmarks/inference.py compares: programs that predict with the same weights."""

from __future__ import annotations

import argparse
import copy
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from benchmarks.calibrated_weights import calibrated_random_weights, copy_fitting
from benchmarks.torchvision_baseline import TorchvisionPredictor
from benchmarks.whole_models import PEERS, available_peers, whole_model
from deepfuse_d2.analysis import analyze
from deepfuse_d2.data.minicity.render import render_frame
from deepfuse_d2.engine import load_config
from deepfuse_d2.inference import Predictor
from deepfuse_d2.inference.optimize.precision import choose_dtype

__all__ = [
    "CONFIGS",
    "Candidate",
    "StockPredictor",
    "build",
    "load_benchmark_config",
    "make_images",
    "programs",
    "stock_of_each",
]

CONFIGS = [
    "configs/Cityscapes/mask_rcnn_R_50_FPN.yaml",
    "configs/Cityscapes/mask_rcnn_R_50_DeepFuseFPN.yaml",
]
# torchvision's ResNet has its strides there; so all candidates compute the same.
AS_TORCHVISION = ["MODEL.RESNETS.STRIDE_IN_1X1", "False"]


@dataclass
class Candidate:
    """One row: something that predicts.

    Attributes:
        model: whose weights it has.
        dtype: of its convolutions.
        ready: seconds until it could be run; later until the first result.
        runs_in: what it is, apart from its neck; "" where there is no other neck in the same.
        is_deep: whether the neck is DeepFuseFPN.
        run_all: of several images at once; None takes them one by one.
    """

    name: str
    model: torch.nn.Module
    run: Callable[[np.ndarray], object]
    dtype: torch.dtype = torch.float32
    ready: float = 0.0
    runs_in: str = ""
    is_deep: bool = False
    run_all: Callable[[list[np.ndarray]], object] | None = None

    @property
    def parameters(self) -> int:
        """Trained or not; norms that are frozen hold buffers, which do not count."""
        return sum(p.numel() for p in self.model.parameters())

    def flops(self, image: np.ndarray, detections: int) -> float:
        """Of an image (H, W, 3), as the network is defined, whatever computes it."""
        size, proposals = tuple(image.shape[:2]), proposals_in(self.model, image)
        return _flops(self.model, size, max(proposals, 1), max(detections, 1))


@torch.no_grad()
def proposals_in(model: torch.nn.Module, image: np.ndarray) -> int:
    """How many regions the box head of an R-CNN looks at; 0 of other models."""
    if getattr(model, "proposal_generator", None) is None:
        return 0
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    images = model.preprocess_image([{"image": pixels}])
    found, _ = model.proposal_generator(images, model.backbone(images.tensor))
    return len(found[0])


@functools.cache
def _flops(model: torch.nn.Module, size: tuple[int, int], proposals: int, detections: int) -> float:
    shapes = copy.deepcopy(model).to("meta")  # counted without computing
    cost = analyze(shapes, size, proposals=proposals, detections=detections)
    return 2.0 * cost.total.multiply_adds


def stock_of_each(
    configs: Sequence[str], overrides: list[str], images: list, args: argparse.Namespace
) -> list[Candidate]:
    candidates, first = [], None
    for config in configs:
        cfg = load_benchmark_config(config, overrides, args.size)
        model = build(cfg, images, first)
        first = first or model
        candidates.append(Candidate(config, model, StockPredictor(cfg, model)))
    return candidates


def programs(
    overrides: list[str], images: list, args: argparse.Namespace, notes: list[str]
) -> list[Candidate]:
    """What predicts with the same weights; `notes` gets a line for each peer that is left out."""
    cfgs = [load_benchmark_config(c, [*AS_TORCHVISION, *overrides], args.size) for c in CONFIGS]
    models = [build(cfgs[0], images)]
    models.append(build(cfgs[1], images, models[0]))
    device = torch.device(cfgs[0].MODEL.DEVICE)
    lower = choose_dtype("auto", device)
    dtypes = [torch.float32] if lower is torch.float32 else [torch.float32, lower]
    peers, missing = available_peers(args.peers, device)
    notes += missing
    found = [
        Candidate(
            "detectron2", models[0], StockPredictor(cfgs[0], models[0]), runs_in="detectron2"
        ),
        Candidate("torchvision", models[0], TorchvisionPredictor(models[0], cfgs[0])),
    ]
    for name in peers:
        for dtype in dtypes if PEERS[name] else dtypes[:1]:
            start = time.perf_counter()
            run = StockPredictor(cfgs[0], whole_model(models[0], name, dtype))
            title = f"detectron2 in {name}, {words_of(dtype)}"
            found.append(Candidate(title, models[0], run, dtype, time.perf_counter() - start))
    stock = StockPredictor(cfgs[1], models[1])
    found += [ours(models[0], cfgs[0], dtype, x, args) for x in args.engines for dtype in dtypes]
    found.append(
        Candidate("detectron2, DeepFuseFPN", models[1], stock, runs_in="detectron2", is_deep=True)
    )
    found += [ours(models[1], cfgs[1], dtype, x, args) for x in args.engines for dtype in dtypes]
    return found


def ours(
    model, cfg: CfgNode, dtype: torch.dtype, engine: str, args: argparse.Namespace
) -> Candidate:
    """Our Predictor in an engine."""
    is_deep = cfg.MODEL.NECK.NAME == "DeepFuseFPN"
    runs_in = f"ours, {words_of(dtype)}" + (f", {engine}" if engine != "native" else "")
    name = runs_in.replace("ours", "ours, DeepFuseFPN") if is_deep else runs_in
    start = time.perf_counter()
    run = Predictor.from_model(model, cfg, dtype=dtype, engine=engine, batch_size=args.batch)
    ready = time.perf_counter() - start
    return Candidate(
        name, model, run, dtype, ready, runs_in, is_deep, run if args.batch > 1 else None
    )


def words_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def load_benchmark_config(config: str, overrides: list[str], size: tuple[int, int]) -> CfgNode:
    """The config for images of `size`, which are not resized; random weights by default."""
    fixed = [
        "MODEL.WEIGHTS", "", "SEED", "0",
        "INPUT.MIN_SIZE_TEST", str(min(size)), "INPUT.MAX_SIZE_TEST", str(max(size)),
    ]  # fmt: skip
    return load_config(config, [*fixed, *overrides])


def build(cfg: CfgNode, images: list[np.ndarray], source: torch.nn.Module | None = None):
    """The model of a config in evaluation: its weights, those of `source`, or stand-ins."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
        return model
    if source is not None:
        copy_fitting(source, model)
    inputs = [{"image": torch.from_numpy(x).permute(2, 0, 1).float()} for x in images[:2]]
    calibrated_random_weights(model, inputs)
    return model


class StockPredictor(DefaultPredictor):
    """detectron2's own, around a model that is built already."""

    def __init__(self, cfg: CfgNode, model: torch.nn.Module):
        self.cfg, self.model = cfg, model
        self.aug = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT


def make_images(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """MiniCity frames (H, W, 3), uint8, blue first."""
    height, width = size
    frames = [render_frame(0, "val", index, width, height) for index in range(count)]
    return [np.ascontiguousarray(np.asarray(frame.image)[:, :, ::-1]) for frame in frames]
