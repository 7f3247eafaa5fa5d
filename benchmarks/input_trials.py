#!/usr/bin/env python3
"""Give the Predictor images of every kind, also broken ones, and list what each got.

    python -m benchmarks.input_trials
    python -m benchmarks.input_trials --config-file configs/... --weights model_final.pth

Without a config: a small Mask R-CNN with random weights. The images are made in a temporary folder.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import warnings
from pathlib import Path

import cv2
import numpy as np
from detectron2.modeling import build_model
from PIL import Image
from tabulate import tabulate

from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import ImageError, UserError
from deepfuse_d2.inference import Predictor

CONFIG = "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_intermixed_args(argv)
    # Pillow's about large images; the errors below say more
    warnings.filterwarnings("ignore")
    try:
        if args.config_file:
            predictor = Predictor(args.config_file, args.weights, opts=args.opts, errors="return")
        else:
            cfg = load_config(CONFIG, ["MODEL.WEIGHTS", "", *args.opts])
            predictor = Predictor.from_model(build_model(cfg), cfg, errors="return")
        print(table(predictor))
    except UserError as error:
        print(f"input_trials.py: {error}", file=sys.stderr)
        return 2
    return 0


def table(predictor: Predictor) -> str:
    with tempfile.TemporaryDirectory() as folder:
        inputs = make_inputs(Path(folder))
        outcomes = [describe(x) for x in predictor.stream(list(inputs.values()))]
        rows = [
            [name, outcome.replace(f"{folder}/", "").replace(str(Path.cwd()), "...")]
            for name, outcome in zip(inputs, outcomes, strict=True)
        ]
    return tabulate(rows, ["input", "got"], tablefmt="pipe")


def describe(result: object) -> str:
    if isinstance(result, ImageError):
        return f"error: {result}"
    height, width = getattr(result, "image_size", None) or result.shape
    return f"a prediction of {width} x {height} pixels"


def make_inputs(folder: Path) -> dict[str, object]:
    """Files of all kinds, written to `folder`, and arrays: description -> what to predict."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    grey = colour[:, :, 0]
    image = Image.fromarray(colour)
    inputs: dict[str, object] = {}

    def add(description: str, name: str, content: bytes) -> None:
        path = folder / name
        path.write_bytes(content)
        inputs[description] = path

    def save(description: str, name: str, picture: Image.Image, **options) -> None:
        picture.save(folder / name, **options)
        inputs[description] = folder / name

    save("PNG, 8-bit colour", "colour.png", image)
    save("JPEG", "photo.jpg", image)
    save("WebP", "photo.webp", image)
    save("grey, 8 bits", "grey.png", Image.fromarray(grey))
    save("grey, 16 bits", "grey16.png", Image.fromarray(grey.astype(np.uint16) * 257))
    cv2.imwrite(str(folder / "colour16.png"), colour.astype(np.uint16) * 257)
    inputs["colour, 16 bits"] = folder / "colour16.png"
    save("black and white, 1 bit", "bits.png", image.convert("1"))
    save("palette", "palette.png", image.convert("P"))
    save("grey with transparency", "la.png", image.convert("LA"))
    save("colour with transparency (RGBA)", "rgba.png", image.convert("RGBA"))
    save("CMYK", "cmyk.jpg", image.convert("CMYK"))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter
    save("EXIF: turned by 90 degrees", "turned.jpg", image, exif=exif)
    save("floating-point TIFF", "float.tif", Image.fromarray(grey.astype(np.float32)))
    save("1 x 1 pixel", "dot.png", image.crop((0, 0, 1, 1)))
    save("64 x 1 pixels", "line.png", image.crop((0, 0, 64, 1)))
    save("a suffix that lies: PNG as .jpg", "lies.jpg", image, format="PNG")
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG")
    inputs["bytes of a JPEG"] = buffer.getvalue()
    inputs["PIL image"] = image
    inputs["array, uint8, (H, W, 3)"] = colour
    inputs["array, uint8, (H, W)"] = grey
    inputs["array, uint8, (H, W, 4)"] = np.dstack([colour, grey])
    inputs["array, uint16"] = colour.astype(np.uint16) * 257
    inputs["array, not contiguous"] = colour[::2, ::-1]

    add("0 bytes", "empty.jpg", b"")
    add("text named .jpg", "text.jpg", b"this is no image\n")
    add("JPEG cut in half", "half.jpg", buffer.getvalue()[: len(buffer.getvalue()) // 2])
    save("20,000 x 20,000 pixels", "huge.png", Image.new("1", (20_000, 20_000)))
    inputs["no such file"] = folder / "missing.png"
    inputs["array, float"] = colour / 255.0
    inputs["array, 5 channels"] = np.zeros((8, 8, 5), dtype=np.uint8)
    inputs["array, empty"] = np.zeros((0, 8, 3), dtype=np.uint8)
    inputs["a number"] = 42
    return inputs


if __name__ == "__main__":
    sys.exit(main())
