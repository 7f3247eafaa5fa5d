"""Map land cover with a trained M3FusionSegmentor: rasters in, a GeoTIFF of classes out.

    deepfuse map --config-file MiniFields/m3fusion_quick --weights model_final.pth \\
        --image spot.tif --series sentinel2/ --output map.tif --picture map.png

A series is a folder of rasters with a date in each name, or one stack with --dates. Either source
may be left out: the network then decides by the other. The scene may be larger than memory. Needs
rasterio (extra "geo").
"""

from __future__ import annotations

import argparse

from ..errors import ConfigError
from .arguments import add_config_file

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--image", metavar="FILE")
    parser.add_argument("--series", metavar="PATH", help="folder of dated rasters, or one stack")
    parser.add_argument("--clouds", metavar="PATH", help="masks, not 0 where the ground is hidden")
    parser.add_argument("--dates", nargs="+", metavar="YYYY-MM-DD", help="of a stack")
    parser.add_argument(
        "--order", choices=("dates_first", "bands_first"), default="dates_first", help="of a stack"
    )
    parser.add_argument("--no-data", type=float, metavar="VALUE", help="of the series")
    parser.add_argument(
        "--reproject", action="store_true", help="bring all to the grid of the first raster"
    )
    parser.add_argument("--window", type=int, default=64, help="side, in pixels of the series")
    parser.add_argument(
        "--margin", type=int, help="pixels of the series around it, seen and cut away"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="GeoTIFF to write")
    parser.add_argument("--picture", metavar="FILE", help="PNG of the map with its legend")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, help="config overrides KEY VALUE ...")


def run(args: argparse.Namespace) -> None:
    from ..config.recipes import find_config
    from ..data.datasets.formats.raster import open_rasters
    from ..inference.map_picture import draw_map
    from ..inference.rasters import MapModel, predict_raster

    loaded = MapModel.load(find_config(args.config_file), args.weights, args.opts or [])
    scene = open_rasters(_entry(args, loaded.ratio))
    summary = predict_raster(
        loaded.model, scene, args.output, window=args.window, margin=args.margin,
        colors=loaded.colors, classes=loaded.classes,
    )  # fmt: skip
    height, width = summary.size
    print(f"{width} x {height} pixels in {summary.windows} windows")
    total = max(sum(summary.pixels), 1)
    for i, count in enumerate(summary.pixels):
        name = loaded.classes[i] if i < len(loaded.classes) else str(i)
        print(f"  {name}: {100 * count / total:.1f} %")
    print(f"Wrote {args.output}")
    if args.picture:
        draw_map(args.output, args.picture, loaded.classes, loaded.colors)
        print(f"Wrote {args.picture}")


def _entry(args: argparse.Namespace, ratio: int) -> dict:
    """What DATASETS.EXTRA would say of the scene."""
    if not args.image and not args.series:
        raise ConfigError("Give --image, --series, or both.")
    given = {
        "IMAGE": args.image, "SERIES": args.series, "CLOUDS": args.clouds, "DATES": args.dates,
        "ORDER": args.order, "NO_DATA": args.no_data, "REPROJECT": args.reproject, "RATIO": ratio,
    }  # fmt: skip
    return {key: value for key, value in given.items() if value is not None}
