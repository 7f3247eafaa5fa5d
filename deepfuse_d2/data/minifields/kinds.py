"""What grows where: a class is a phenology, which the series alone shows, with a texture, which the
image alone shows."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MODES", "PHENOLOGIES", "TEXTURES", "Kind", "Mode"]

#: Evergreen; one early peak; one late peak, or two; low all year.
PHENOLOGIES = ("evergreen", "early", "late", "flat")
TEXTURES = ("smooth", "rows", "crowns", "blocks")


class Kind(NamedTuple):
    """One combination of a phenology and a texture, and the class it stands for."""

    phenology: str
    texture: str
    label: int


class Mode(NamedTuple):
    classes: tuple[str, ...]
    #: RGB of each class, for maps.
    colors: tuple[tuple[int, int, int], ...]
    #: Drawn with equal probability.
    kinds: tuple[Kind, ...]


_MIXED = (
    ("forest", (32, 96, 48), "evergreen", "crowns"),
    ("orchard", (120, 168, 60), "evergreen", "rows"),
    ("meadow", (160, 212, 128), "evergreen", "smooth"),
    ("cereal", (240, 208, 96), "early", "smooth"),
    ("vineyard", (140, 64, 140), "early", "rows"),
    ("summer_crop", (232, 140, 48), "late", "smooth"),
    ("bare_soil", (168, 132, 100), "flat", "smooth"),
    ("urban", (200, 60, 60), "flat", "blocks"),
)
_XOR = ("evergreen", "early", "late"), ("smooth", "rows", "crowns")

MODES = {
    # Either source alone leaves two or three classes open, in equal parts: half are right at best.
    # Both together decide every class, and so do sums of what each says on its own.
    "mixed": Mode(
        tuple(name for name, *_ in _MIXED),
        tuple(color for _, color, *_ in _MIXED),
        tuple(Kind(phenology, texture, i) for i, (*_, phenology, texture) in enumerate(_MIXED)),
    ),
    # label = (phenology + texture) mod 3. Either source alone says nothing at all, and sums of what
    # each says on its own can get 7 of the 9 combinations right at most.
    "xor": Mode(
        ("sum_0", "sum_1", "sum_2"),
        ((72, 120, 180), (240, 208, 96), (120, 168, 60)),
        tuple(
            Kind(phenology, texture, (p + t) % 3)
            for p, phenology in enumerate(_XOR[0])
            for t, texture in enumerate(_XOR[1])
        ),
    ),
}
