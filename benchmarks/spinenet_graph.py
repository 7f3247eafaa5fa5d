#!/usr/bin/env python3
"""Draw the graph of SpineNet from the table that the network is built from.

python -m benchmarks.spinenet_graph                        # docs/spinenet.svg
python -m benchmarks.spinenet_graph --name MBConv-49 --output mbconv.svg

A block stands at its number, from left to right, and at its level, from top to bottom. Its shape
says its kind, a double border that it is an output, a line what is resampled, a dashed line what is
added as it is.
"""

import argparse
import sys
from pathlib import Path

from deepfuse_d2.modeling.backbone.spinenet_tables import VARIANTS, Table

DRAWING = Path(__file__).parents[1] / "docs" / "spinenet.svg"
NAME = "SpineNet-49"
STEP_X, STEP_Y, LEFT, TOP = 62, 58, 70, 34
# half of a block's width and height
HALF_X, HALF_Y = 21, 13
FILL = {"bottleneck": "#cfe2f7", "residual": "#f8dcc2", "mbconv": "#d3ecd3"}


def draw(name: str, table: Table) -> str:
    """The drawing, as SVG."""
    blocks = table.all_blocks
    top = min(block.level for block in blocks)
    bottom = max(block.level for block in blocks)
    width = LEFT + STEP_X * len(blocks)
    height = TOP + STEP_Y * (bottom - top + 1) + 30

    def at(index: int) -> tuple[int, int]:
        return LEFT + 20 + STEP_X * index, TOP + STEP_Y * (blocks[index].level - top) + 20

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12">',
        f"<title>{name}: blocks by number and level</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for level in range(top, bottom + 1):
        y = TOP + STEP_Y * (level - top) + 20
        parts.append(
            f'<line x1="{LEFT - 8}" y1="{y}" x2="{width}" y2="{y}" stroke="#eeeeee"/>'
            f'<text x="8" y="{y + 4}" fill="#555555">1/{2**level}</text>'
        )
    # the groups of the stem are a chain
    parts.append(_edge(at(0), at(1), ""))
    for index, block in enumerate(blocks):
        parts += [_edge(at(source), at(index), "") for source in block.inputs]
        parts += [_edge(at(source), at(index), ' stroke-dasharray="5 3"') for source in block.add]
    for index, block in enumerate(blocks):
        parts.append(_block(index, block.kind, block.output, block.level, *at(index)))
    kinds = list(dict.fromkeys(block.kind for block in blocks))
    parts.append(
        f'<text x="8" y="{height - 10}" fill="#555555">{name}. '
        + "; ".join(f"{kind}: {_shape_of(kind)}" for kind in kinds)
        + "; double border: output; dashed: added without resampling</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def _edge(start: tuple[int, int], end: tuple[int, int], style: str) -> str:
    (x0, y0), (x1, y1) = start, end
    bend = (x1 - x0) // 2
    # of one level: an arc above the blocks between
    lift = -min(24 + 3 * (x1 - x0) // STEP_X, 34) if y0 == y1 and x1 - x0 > STEP_X else 0
    return (
        f'<path d="M{x0},{y0} C{x0 + bend},{y0 + lift} {x1 - bend},{y1 + lift} {x1},{y1}" '
        f'fill="none" stroke="#8895a7" stroke-width="1.3"{style}/>'
    )


def _block(index: int, kind: str, is_output: bool, level: int, x: int, y: int) -> str:
    radius = 0 if kind == "residual" else 8
    shapes = []
    for grown in (4, 0) if is_output else (0,):
        shapes.append(
            f'<rect x="{x - HALF_X - grown}" y="{y - HALF_Y - grown}" '
            f'width="{2 * (HALF_X + grown)}" height="{2 * (HALF_Y + grown)}" rx="{radius}" '
            f'fill="{FILL[kind]}" stroke="#333333"/>'
        )
    label = f"{index} p{level}" if is_output else str(index)
    shapes.append(f'<text x="{x}" y="{y + 4}" text-anchor="middle">{label}</text>')
    return "".join(shapes)


def _shape_of(kind: str) -> str:
    return "square corners" if kind == "residual" else "round corners"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", choices=list(VARIANTS), default=NAME)
    parser.add_argument("--output", type=Path, default=DRAWING)
    args = parser.parse_args(argv)
    args.output.write_text(draw(args.name, VARIANTS[args.name]))
    print(f"Wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
