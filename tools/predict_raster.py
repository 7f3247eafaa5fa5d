#!/usr/bin/env python3
"""Map a scene of any size with a trained M3FusionSegmentor: rasters in, a GeoTIFF of classes out.

python tools/predict_raster.py --config-file configs/MiniFields/m3fusion_quick.yaml \\
    --weights output/MiniFields/m3fusion_quick/model_final.pth \\
    --image spot.tif --series sentinel2/ --output map.tif --picture map.png

A series is a folder of rasters with a date in each name, or one stack with --dates. Either source
may be left out: the network then decides by the other. Needs rasterio (extra "geo").
"""

from __future__ import annotations

import argparse
import sys
import time

from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.config.checking import check_config
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.data.datasets.formats.raster import open_rasters
from deepfuse_d2.errors import ConfigError, UserError
from deepfuse_d2.inference.map_picture import draw_map
from deepfuse_d2.inference.rasters import predict_raster
from deepfuse_d2.modeling import M3FusionSegmentor


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    setup_logger(name="deepfuse_d2", abbrev_name="df2")
    try:
        cfg = load_config(args.config_file, args.opts)
        cfg.MODEL.WEIGHTS = args.weights or cfg.MODEL.WEIGHTS
        cfg.DEEPFUSE_D2.TEST.SEM_SEG.OUTPUT = "labels"
        check_config(cfg)
        if not cfg.MODEL.WEIGHTS:
            raise ConfigError("Give the weights of a trained model: --weights FILE.")
        scene = open_rasters(entry(args, cfg.MODEL.M3FUSION.RATIO))
        model = build_model(cfg)
        if not isinstance(model, M3FusionSegmentor):
            raise ConfigError(
                f"{args.config_file} describes a {type(model).__name__}; scenes are mapped by "
                "MODEL.META_ARCHITECTURE M3FusionSegmentor."
            )
        checkpointer = DeepFuseCheckpointer(model, min_match=cfg.MODEL.WEIGHTS_MIN_MATCH)
        checkpointer.load(cfg.MODEL.WEIGHTS)
        metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else None
        classes = list(getattr(metadata, "stuff_classes", []))
        colors = getattr(metadata, "stuff_colors", None)
        start = time.perf_counter()
        summary = predict_raster(
            model, scene, args.output, window=args.window, margin=args.margin, colors=colors,
            classes=classes,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        if args.picture:
            draw_map(args.output, args.picture, classes, colors)
    except UserError as error:
        print(f"predict_raster.py: {error}", file=sys.stderr)
        return 2
    height, width = summary.size
    print(f"{width} x {height} pixels in {summary.windows} windows, {seconds:.1f} s")
    total = max(sum(summary.pixels), 1)
    for i, count in enumerate(summary.pixels):
        print(f"  {classes[i] if i < len(classes) else i}: {100 * count / total:.1f} %")
    print(
        f"The map lies at {args.output}" + f", its picture at {args.picture}" * bool(args.picture)
    )
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", metavar="FILE", help="in place of MODEL.WEIGHTS")
    parser.add_argument("--image", metavar="FILE")
    parser.add_argument("--series", metavar="PATH", help="folder of dated rasters, or one stack")
    parser.add_argument("--clouds", metavar="PATH", help="masks, not 0 where the ground is hidden")
    parser.add_argument("--dates", nargs="+", metavar="YYYY-MM-DD", help="of a stack")
    parser.add_argument("--order", default="dates_first", help='of a stack; or "bands_first"')
    parser.add_argument("--no-data", type=float, metavar="VALUE")
    parser.add_argument(
        "--reproject", action="store_true", help="bring all to the grid of the first raster"
    )
    parser.add_argument("--window", type=int, default=64, help="side, in pixels of the series")
    parser.add_argument("--margin", type=int, help="around it, seen and cut away")
    parser.add_argument("--output", required=True, metavar="FILE", help="GeoTIFF to write")
    parser.add_argument("--picture", metavar="FILE", help="PNG of the map with its legend")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    return parser.parse_args(argv)


def entry(args: argparse.Namespace, ratio: int) -> dict:
    """What DATASETS.EXTRA would say of the scene."""
    if not args.image and not args.series:
        raise ConfigError("Give --image, --series, or both.")
    given = {
        "IMAGE": args.image, "SERIES": args.series, "CLOUDS": args.clouds, "DATES": args.dates,
        "ORDER": args.order, "NO_DATA": args.no_data, "REPROJECT": args.reproject, "RATIO": ratio,
    }  # fmt: skip
    return {key: value for key, value in given.items() if value is not None}


if __name__ == "__main__":
    sys.exit(main())
