"""Time each kernel written by hand against what it takes the place of, interleaved.

    python -m benchmarks.kernels
    python -m benchmarks.kernels winograd --engines openvino inductor
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.kernels winograd

Of each: the median of its milliseconds, the GFLOP/s of the operation as it is defined (a kernel
that saves multiplications may surpass the machine), how many times as long the other one takes and
the fastest of the engines (medians of ratios within a round; below 1 the kernel is slower), and the
lines of its files. A kernel stays where it is 1.15 times as fast as the best of the others on some
kind of machine, and is chosen there alone.

The engines compute what is dense in prediction; no engine trains, aligns regions, pastes masks or
selects proposals.
"""

import argparse
import copy
import functools
import inspect
import time
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ROIAlign, ShapeSpec, paste_masks_in_image
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.structures import Boxes, ImageList
from fvcore.nn import FlopCountAnalysis
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.machine import measure_machine
from benchmarks.timing import run_rounds, summarize
from deepfuse_d2.inference.engines import ENGINES
from deepfuse_d2.inference.optimize import heads, proposals
from deepfuse_d2.kernels import (
    folded_conv,
    packed_conv,
    roi_align,
    roi_samples,
    tiled_convolution,
    winograd,
)
from deepfuse_d2.kernels.capabilities import has_bfloat16
from deepfuse_d2.kernels.winograd import WinogradConv2d
from deepfuse_d2.modeling.postprocessing import paste

LAST = torch.channels_last


class Row(NamedTuple):
    """A kernel at work on one shape, and what it takes the place of."""

    kernel: str
    work: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    #: the same as a module and its input, for engines; None where no engine does such work
    module: nn.Module | None = None
    x: Tensor | None = None
    dtype: torch.dtype = torch.float32


#: files of each kernel
FILES: dict[str, list[ModuleType]] = {
    "winograd": [winograd],
    "packed": [packed_conv],
    "roi align": [roi_align, roi_samples],
    "tiled": [tiled_convolution],
    "folded": [folded_conv],
    "paste": [paste],
    "proposals": [proposals],
    "heads": [heads],
}


def _dtypes() -> list[torch.dtype]:
    return [torch.float32, torch.bfloat16] if has_bfloat16() else [torch.float32]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _maps(*shape: int) -> Tensor:
    return torch.randn(shape).relu().contiguous(memory_format=LAST)


def _convolution(channels: int, out: int, side: int = 3) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, side, padding=side // 2)
    return conv.to(memory_format=LAST).requires_grad_(False)


def _winograd() -> Iterator[Row]:
    for dtype in _dtypes():
        for shape in ((1, 256, 128, 256), (1, 256, 64, 128), (1, 256, 16, 32), (100, 256, 14, 14)):
            conv, x = _convolution(256, 256), _maps(*shape)
            side = WinogradConv2d.best_side(shape[2] if shape[0] > 1 else 16, dtype)
            tiled = WinogradConv2d(conv.weight.to(dtype), conv.bias.to(dtype), m=side)
            direct = packed_conv.InferenceConv2d(conv, dtype=dtype, pack=True)
            given = x.to(dtype)
            yield Row(
                "winograd",
                f"3x3 {shape} {_name(dtype)}",
                functools.partial(tiled, given),
                functools.partial(direct, given),
                conv, x, dtype,
            )  # fmt: skip


def _packed() -> Iterator[Row]:
    for dtype in _dtypes():
        for channels, out, side, size in (
            (256, 64, 1, (128, 256)),
            (64, 64, 3, (128, 256)),
            (512, 512, 3, (16, 32)),
            (2048, 512, 1, (16, 32)),
        ):
            conv, x = _convolution(channels, out, side), _maps(1, channels, *size)
            fast = packed_conv.InferenceConv2d(conv, dtype=dtype, pack=True)
            fast.relu = True
            stock, given = copy.deepcopy(conv).to(dtype), x.to(dtype)
            yield Row(
                "packed",
                f"{side}x{side} {channels}-{out} {size} + ReLU {_name(dtype)}",
                functools.partial(fast, given),
                functools.partial(nn.Sequential(stock, nn.ReLU(inplace=True)), given),
                nn.Sequential(conv, nn.ReLU()), x, dtype,
            )  # fmt: skip


def _boxes(count: int, height: int, width: int) -> Tensor:
    corners = torch.rand(count, 2) * torch.tensor([width - 40.0, height - 40.0])
    sizes = torch.rand(count, 2) ** 2 * 160 + 16
    stops = torch.minimum(corners + sizes, torch.tensor([width, height]) - 1.0)
    return torch.cat([corners, stops], 1)


def _pyramid() -> list[Tensor]:
    return [_maps(1, 256, 128 >> level, 256 >> level) for level in range(4)]


def _there_and_back(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    def work() -> None:
        function(x).sum().backward()
        x.grad = None

    return work


def _roi_align() -> Iterator[Row]:
    for count, size in ((1000, 7), (100, 14)):
        scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        stock = ROIPooler(size, scales, sampling_ratio=0, pooler_type="ROIAlignV2")
        ours = copy.deepcopy(stock)
        for level in ours.level_poolers:
            level.__class__ = roi_align.RowROIAlign
        maps, boxes = _pyramid(), [Boxes(_boxes(count, 512, 1024))]
        yield Row(
            "roi align",
            f"{count} boxes of four levels, {size} x {size}",
            lambda f=ours, m=maps, b=boxes: f(m, b),
            lambda f=stock, m=maps, b=boxes: f(m, b),
        )
    for count, size in ((512, 7), (128, 14)):
        x = _maps(1, 256, 128, 256).requires_grad_()
        rois = torch.cat([torch.zeros(count, 1), _boxes(count, 512, 1024)], 1)
        stock = ROIAlign(size, 0.25, 0)
        ours = roi_align.RowROIAlign(size, 0.25, 0)
        yield Row(
            "roi align",
            f"{count} boxes, {size} x {size}, and gradient",
            _there_and_back(lambda m, f=ours, r=rois: f(m, r), x),
            _there_and_back(lambda m, f=stock, r=rois: f(m, r), x),
        )


def _tiled() -> Iterator[Row]:
    for shape in ((2, 256, 64, 128), (64, 256, 14, 14), (2, 128, 64, 128)):
        x = _maps(*shape).requires_grad_()
        weight = (torch.randn(shape[1], shape[1], 3, 3) / 50).requires_grad_()
        bias = torch.zeros(shape[1]).requires_grad_()
        yield Row(
            "tiled",
            f"3x3 {shape}, and gradients",
            _there_and_back(lambda m, w=weight, b=bias: tiled_convolution.tiled_conv2d(m, w, b), x),
            _there_and_back(lambda m, w=weight, b=bias: F.conv2d(m, w, b, padding=1), x),
        )


def _folded() -> Iterator[Row]:
    for channels, out, side, size in ((256, 64, 1, (64, 128)), (128, 128, 3, (32, 64))):
        norm = FrozenBatchNorm2d(out)
        conv = Conv2d(channels, out, side, padding=side // 2, bias=False, norm=norm)
        conv = conv.to(memory_format=LAST)
        other = Conv2d(channels, out, side, padding=side // 2, bias=False, norm=norm)
        other = other.to(memory_format=LAST)
        other.__class__ = folded_conv.FoldedConv2d
        x = _maps(2, channels, *size).requires_grad_()
        yield Row(
            "folded",
            f"{side}x{side} {channels}-{out} {size}, and gradients",
            _there_and_back(other, x),
            _there_and_back(conv, x),
        )


def _paste() -> Iterator[Row]:
    for count, size in ((100, (512, 1024)), (20, (1024, 2048))):
        masks, boxes = torch.rand(count, 1, 28, 28), _boxes(count, *size)
        yield Row(
            "paste",
            f"{count} masks, {size}",
            lambda m=masks, b=boxes, s=size: paste.paste_masks(m, b, s),
            lambda m=masks, b=boxes, s=size: paste_masks_in_image(m[:, 0], b, s),
        )


def _proposals() -> Iterator[Row]:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 1000
    shapes = {f"p{i}": ShapeSpec(channels=256, stride=2**i) for i in range(2, 7)}
    stock = build_proposal_generator(cfg, shapes).eval()
    ours = proposals.InferenceRPN(stock)
    head = [
        (torch.randn(1, 3, 256 >> i, 512 >> i), torch.randn(1, 12, 256 >> i, 512 >> i) / 9)
        for i in range(1, 6)
    ]

    class Given(nn.Module):
        def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], ...]:
            return [scores for scores, _ in head], [deltas.clone() for _, deltas in head]

    stock.rpn_head = ours.rpn_head = Given()
    images = ImageList(torch.zeros(1, 3, 512, 1024), [(512, 1024)])
    maps = {f"p{i}": torch.zeros(1, 1, 512 >> i, 1024 >> i) for i in range(2, 7)}
    yield Row(
        "proposals",
        "5 levels of 512 x 1024",
        lambda: ours(images, maps),
        lambda: stock(images, maps),
    )


def _heads() -> Iterator[Row]:
    linear, x = nn.Linear(256 * 49, 1024).requires_grad_(False), torch.randn(1000, 256 * 49)
    ours = heads.LinearAsConvolution(linear, pack=True)
    yield Row(
        "heads", "1000 x 12544 - 1024", lambda: ours(x), lambda: linear(x), linear, x
    )  # fmt: skip
    deconv, last = nn.ConvTranspose2d(256, 256, 2, 2), nn.Conv2d(256, 8, 1)
    stock = nn.Sequential(deconv, nn.ReLU(), last).to(memory_format=LAST).requires_grad_(False)
    fused = heads.UpsampledPredictor(deconv, last, dtype=torch.float32, pack=True)
    y = _maps(100, 256, 14, 14)
    yield Row(
        "heads",
        "deconvolution of 100 masks, 8 classes",
        lambda: torch.cat([fused(part) for part in y.split(heads._BOXES)]),
        lambda: stock(y),
        stock, y,
    )  # fmt: skip


ROWS = {
    "winograd": _winograd,
    "packed": _packed,
    "roi align": _roi_align,
    "tiled": _tiled,
    "folded": _folded,
    "paste": _paste,
    "proposals": _proposals,
    "heads": _heads,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kernels", nargs="*", choices=[*ROWS, []], help="by default all")
    parser.add_argument("--rounds", type=int, default=7, help="that are counted (default: 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--engines", nargs="*", choices=list(ENGINES), metavar="NAME",
        help=f"of {', '.join(ENGINES)} (default: openvino and inductor, where they run)",
    )  # fmt: skip
    args = parser.parse_intermixed_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    machine = measure_machine("cpu")
    warnings.filterwarnings("ignore")
    engines = args.engines
    if engines is None:
        cpu = torch.device("cpu")
        engines = [x for x in ("openvino", "inductor") if not ENGINES[x].why_not(cpu)]
    table = [
        _measured(row, engines, args.rounds)
        for kernel in args.kernels or ROWS
        for row in ROWS[kernel]()
    ]
    print(f"\n{machine}\n{args.rounds} rounds\n")
    headers = ["kernel", "work", "ms", "GFLOP/s", "times the stock", "times the best engine",
               "", "lines"]  # fmt: skip
    print(tabulate(table, headers, "github", floatfmt=("", "", ".1f", ".0f", ".2f", ".2f", "", "")))
    return 0


def _measured(row: Row, engines: list[str], rounds: int) -> list:
    """Its line of the table."""
    with torch.set_grad_enabled("gradient" in row.work):
        works = {"ours": row.ours, "theirs": row.theirs} | _in_engines(row, engines)
        seconds = run_rounds(
            {name: functools.partial(_timed, work) for name, work in works.items()},
            rounds,
            row.work,
        )
    ratios = {name: summarize(taken, seconds["ours"])[1] for name, taken in seconds.items()}
    best = min((x for x in ratios if x not in ("ours", "theirs")), key=ratios.get, default=None)
    ours = summarize(seconds["ours"], seconds["ours"])[0]
    rate = None
    if row.module is not None:
        count = FlopCountAnalysis(row.module, row.x).unsupported_ops_warnings(False)
        rate = 2e-9 * count.total() / ours
    lines = sum(len(inspect.getsource(module).splitlines()) for module in FILES[row.kernel])
    return [
        row.kernel, row.work, ours * 1e3, rate, ratios["theirs"], best and ratios[best], best, lines
    ]  # fmt: skip


def _in_engines(row: Row, engines: list[str]) -> dict[str, Callable[[], object]]:
    """The module of the row in each engine; without those that cannot take it."""
    works = {}
    for name in engines if row.module is not None else []:
        part = nn.Sequential(row.module, _Tuple()).eval()
        dynamic = tuple(i for i in range(row.x.ndim) if i != 1)
        try:
            run = ENGINES[name].compile(part, [row.x], dynamic, row.dtype)
            run(row.x)
        except Exception as error:  # engines raise whatever they like
            tqdm.write(f"{name} cannot: {row.work}: {str(error).splitlines()[0]}")
            continue
        works[name] = functools.partial(run, row.x)
    return works


class _Tuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
