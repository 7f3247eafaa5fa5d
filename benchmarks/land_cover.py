#!/usr/bin/env python3
"""What M3FusionSegmentor's sources contribute, what its forms cost, how much memory a scene takes.

    python -m benchmarks.land_cover heads --config-file configs/MiniFields/m3fusion_quick.yaml \\
        --weights output/MiniFields/m3fusion_quick/model_final.pth --picture docs/remote_sensing.png
    python -m benchmarks.land_cover forms
    python -m benchmarks.land_cover scene --size 10000 --dates 30 --folder scene

heads: accuracy of the series head, of the image head and of the fusion on the data set of
DATASETS.TEST, with clouds and without, with the sources of other scenes; and a picture. forms: time
of the patch network over an image, dense and by patches, interleaved. scene: makes rasters of that
many pixels, maps them and prints the time and the peak of memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from benchmarks.machine import measure_machine
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.data.datasets.formats.raster import open_rasters
from deepfuse_d2.data.mappers.series_mapper import SeriesMapper
from deepfuse_d2.data.raster_files import rasterio_or_explain
from deepfuse_d2.inference.map_picture import class_colors, color_map
from deepfuse_d2.inference.rasters import MapModel, predict_raster
from deepfuse_d2.layers.patch_network import PatchNetwork

HEADS = {"sem_seg": "fusion", "series": "series head", "image": "image head"}
RATIO = 5


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    heads = commands.add_parser("heads")
    heads.add_argument("--config-file", required=True)
    heads.add_argument("--weights", required=True)
    heads.add_argument("--picture", type=Path)
    heads.add_argument("--opts", nargs=argparse.REMAINDER, default=[])
    forms = commands.add_parser("forms")
    forms.add_argument("--dim", type=int, default=64)
    forms.add_argument("--side", type=int, default=60, help="of the image, in pixels")
    forms.add_argument("--rounds", type=int, default=5)
    scene = commands.add_parser("scene")
    scene.add_argument("--size", type=int, default=10_000, help="side of the image, in pixels")
    scene.add_argument("--dates", type=int, default=30)
    scene.add_argument("--folder", type=Path, required=True)
    scene.add_argument("--window", type=int, default=100, help="side, in pixels of the series")
    scene.add_argument("--dim", type=int, default=8, help="channels of either feature")
    args = parser.parse_args(argv)
    {"heads": show_heads, "forms": time_forms, "scene": map_scene}[args.command](args)
    return 0


def show_heads(args: argparse.Namespace) -> None:
    loaded = MapModel.load(args.config_file, args.weights, args.opts)
    name = load_config(args.config_file, args.opts).DATASETS.TEST[0]
    mapper = SeriesMapper("validate")
    entries = [mapper(record) for record in DatasetCatalog.get(name)]
    others = [*entries[1:], entries[0]]
    changes = {
        "as it is": lambda entry, other: entry,
        "clouds seen as ground": lambda entry, other: {
            **entry, "usable": torch.ones_like(entry["usable"]),
        },
        "series of another scene": lambda entry, other: {
            **entry, **{k: other[k] for k in ("time_series", "dates", "usable")},
        },
        "image of another scene": lambda entry, other: {**entry, "image": other["image"]},
        "without image": lambda entry, other: {k: v for k, v in entry.items() if k != "image"},
        "without series": lambda entry, other: {
            k: v for k, v in entry.items() if k not in ("time_series", "dates", "usable")
        },
    }  # fmt: skip
    for what, change in changes.items():
        changed = [change(*pair) for pair in zip(entries, others, strict=True)]
        scores = accuracies(loaded.model, changed)
        print(f"{what}: " + ", ".join(f"{HEADS[k]} {v:.2f} %" for k, v in scores.items()))
    if args.picture:
        colors = class_colors(len(loaded.classes), MetadataCatalog.get(name).get("stuff_colors"))
        draw_sheet(loaded.model, entries[:3], colors).save(args.picture)
        print(f"Wrote {args.picture}")


@torch.no_grad()
def accuracies(model: torch.nn.Module, entries: list[dict]) -> dict[str, float]:
    """Overall accuracy of each head, in percent."""
    right: dict[str, int] = {}
    total = 0
    for entry in entries:
        total += entry["sem_seg"].numel()
        for name, labels in model.predict([entry])[0].items():
            right[name] = right.get(name, 0) + int((labels.cpu() == entry["sem_seg"]).sum())
    return {name: 100 * count / total for name, count in right.items()}


@torch.no_grad()
def draw_sheet(model: torch.nn.Module, entries: list[dict], colors: np.ndarray) -> Image.Image:
    """A row a scene: image, greenness in spring, summer and autumn, truth, and the three heads."""
    rows = []
    for entry in entries:
        side = entry["image"].shape[-1]
        tiles = [entry["image"].numpy().transpose(1, 2, 0).astype(np.uint8)]
        days = entry["dates"].numpy()
        for day in (110, 210, 280):
            tiles.append(_greenness(entry, int(np.abs(days - day).argmin()), side))
        found = model.predict([entry])[0]
        maps = [entry["sem_seg"], found["series"], found["image"], found["sem_seg"]]
        for labels in maps:
            factor = side // labels.shape[-1]
            tile = color_map(labels.cpu().numpy().astype(np.uint8), colors)
            tiles.append(tile.repeat(factor, axis=0).repeat(factor, axis=1))
        gap = np.full((side, 4, 3), 255, dtype=np.uint8)
        rows.append(np.concatenate([part for tile in tiles for part in (tile, gap)], axis=1))
        rows.append(np.full((4, rows[0].shape[1], 3), 255, dtype=np.uint8))
    return Image.fromarray(np.concatenate(rows))


def _greenness(entry: dict, index: int, side: int) -> np.ndarray:
    """NDVI of a date as brown to green; white where there are clouds."""
    bands = entry["time_series"][index].numpy()
    ndvi = (bands[6] - bands[2]) / np.maximum(bands[6] + bands[2], 1)
    share = ((ndvi - 0.1) / 0.7).clip(0, 1)[..., None]
    tile = (1 - share) * np.array([178, 142, 100]) + share * np.array([34, 110, 44])
    tile = np.where(entry["usable"][index].numpy()[..., None], tile, 250).astype(np.uint8)
    factor = side // tile.shape[0]
    return tile.repeat(factor, axis=0).repeat(factor, axis=1)


@torch.no_grad()
def time_forms(args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, args.side, args.side)
    networks = {
        border: PatchNetwork(3, args.dim, border=border).eval() for border in ("exact", "valid")
    }
    exact = networks["exact"]
    forms = {
        "dense, exact": lambda: exact.dense(image),
        "dense, valid border": lambda: networks["valid"].dense(image),
        "a patch for each pixel": lambda: [
            exact(part) for part in exact.patches(image, 1).split(512)
        ],
        "grid of the series, shared first layer": lambda: exact.at_centres(image, RATIO, chunk=512),
        "grid of the series, patches": lambda: [
            exact(part) for part in exact.patches(image, RATIO).split(512)
        ],
    }
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(args.rounds):
        for name, call in forms.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    print(measure_machine("cpu"))
    print(f"{args.side} x {args.side} pixels, {args.dim} channels, {args.rounds} rounds, CPU time")
    reference = statistics.median(times["dense, exact"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name}: {1000 * median:.0f} ms, {median / reference:.2f} of dense")


def map_scene(args: argparse.Namespace) -> None:
    rasterio = rasterio_or_explain("The scene")
    fine, coarse = args.size, args.size // RATIO
    _make_scene(rasterio, args.folder, fine, coarse, args.dates)
    scene = open_rasters(
        {"IMAGE": str(args.folder / "image.tif"), "SERIES": str(args.folder / "series")}
    )
    config = Path(__file__).resolve().parents[1] / "configs/MiniFields/m3fusion_quick.yaml"
    dims = ("MODEL.M3FUSION.SERIES_DIM", "MODEL.M3FUSION.IMAGE_DIM")
    opts = [word for key in dims for word in (key, str(args.dim))]
    cfg = load_config(str(config), ["MODEL.DEVICE", "cpu", *opts])
    cfg.DEEPFUSE_D2.TEST.SEM_SEG.OUTPUT = "labels"
    model = build_model(cfg).eval()
    before = _peak()
    start, cpu = time.perf_counter(), time.process_time()
    summary = predict_raster(model, scene, args.folder / "map.tif", window=args.window)
    data = (fine**2 * 3 + coarse**2 * args.dates * 10 * 2) / 2**20
    print(
        f"image of {fine} x {fine}, series of {coarse} x {coarse} with {args.dates} dates of 10 "
        f"bands: {data:.0f} MiB as arrays; {summary.windows} windows, "
        f"{time.perf_counter() - start:.0f} s ({time.process_time() - cpu:.0f} s of CPU), peak "
        f"{_peak():.0f} MiB, of which {before:.0f} MiB before the first window"
    )


def _make_scene(rasterio, folder: Path, fine: int, coarse: int, dates: int) -> None:
    """Rasters in blocks, written a strip at a time."""
    (folder / "series").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    files = [(folder / "image.tif", 3, fine, 2.0, "uint8")]
    files += [
        (folder / f"series/2019{1 + i // 28:02d}{1 + i % 28:02d}.tif", 10, coarse, 10.0, "int16")
        for i in range(dates)
    ]
    for path, bands, side, pixel, dtype in files:
        if path.exists():
            continue
        with rasterio.open(
            path, "w", driver="GTiff", width=side, height=side, count=bands, dtype=dtype,
            crs="EPSG:2154", transform=rasterio.transform.from_origin(5e5, 6.6e6, pixel, pixel),
            tiled=True, blockxsize=256, blockysize=256, compress="deflate",
        ) as file:  # fmt: skip
            strip = rng.integers(0, 255, (bands, 256, side)).astype(dtype)
            for top in range(0, side, 256):
                rows = min(256, side - top)
                place = rasterio.windows.Window(0, top, side, rows)
                file.write(strip[:, :rows], window=place)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
