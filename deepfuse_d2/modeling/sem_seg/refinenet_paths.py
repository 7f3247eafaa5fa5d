"""Which features meet in one refine block: the variants of RefineNet's figure 7, as data."""

from detectron2.layers import ShapeSpec

from ...errors import ConfigError

__all__ = ["CASCADES", "coarsest_features", "group_features"]

# MODEL.REFINENET.CASCADE -> blocks from coarse to fine, each a list of (feature, counted from the
# coarsest stride of its scale; scale). The first feature of a block has the size of its result.
_FULL, _HALF = "", "half_"
CASCADES: dict[str, list[list[tuple[int, str]]]] = {
    "single": [[(3, _FULL), (2, _FULL), (1, _FULL), (0, _FULL)]],
    "2_cascaded": [[(1, _FULL), (0, _FULL)], [(3, _FULL), (2, _FULL)]],
    "4_cascaded": [[(0, _FULL)], [(1, _FULL)], [(2, _FULL)], [(3, _FULL)]],
    # The figure pairs maps of one size: half_res4 is as large as res5.
    "2_scale": [
        [(0, _FULL), (1, _HALF), (0, _HALF)],
        [(1, _FULL), (2, _HALF)],
        [(2, _FULL)],
        [(3, _FULL)],
    ],
    # The authors' code pairs features of one name, and has the finest of the half scale too.
    "2_scale_paired": [[(i, _FULL), (i, _HALF)] for i in range(4)],
}


def group_features(shapes: dict[str, ShapeSpec], cascade: str) -> list[list[str]]:
    """Names of the features of every refine block, from coarse to fine.

    Args:
        shapes: of the features, from fine to coarse; names "half_..." are of the second scale.
            Features of one stride (of a scale) stand for one, the last of them first.
        cascade: a name in :data:`CASCADES`.
    """
    if cascade not in CASCADES:
        raise ConfigError(
            f'MODEL.REFINENET.CASCADE = "{cascade}" is unknown; choose one of {list(CASCADES)}.'
        )
    levels: dict[str, dict[int, list[str]]] = {_FULL: {}, _HALF: {}}
    for name, shape in reversed(shapes.items()):
        scale = _HALF if name.startswith(_HALF) else _FULL
        levels[scale].setdefault(shape.stride, []).append(name)
    by_scale = {scale: list(of_scale.values()) for scale, of_scale in levels.items()}

    plan = CASCADES[cascade]
    counts = {
        scale: max((i + 1 for block in plan for i, s in block if s == scale), default=0)
        for scale in by_scale
    }
    # One scale alone may have any number of levels; what is missing leaves its block empty.
    fits = len(by_scale[_HALF]) == counts[_HALF] and 0 < len(by_scale[_FULL]) <= counts[_FULL]
    if not fits or (counts[_HALF] and len(by_scale[_FULL]) < counts[_FULL]):
        raise ConfigError(
            f'MODEL.REFINENET.CASCADE = "{cascade}" joins up to {counts[_FULL]} strides and '
            f"{counts[_HALF]} of half scale; MODEL.SEM_SEG_HEAD.IN_FEATURES gives "
            f"{list(shapes)}. The half scale comes from build_two_scale_backbone, as half_res5 "
            "and so on."
        )
    groups = [
        [name for i, scale in block if i < len(by_scale[scale]) for name in by_scale[scale][i]]
        for block in plan
    ]
    return [group for group in groups if group]


def coarsest_features(shapes: dict[str, ShapeSpec]) -> set[str]:
    """The features of the coarsest stride of each scale: RefineNet's wide paths."""
    coarsest: set[str] = set()
    for prefixed in (False, True):
        strides = {n: s.stride for n, s in shapes.items() if n.startswith(_HALF) == prefixed}
        coarsest |= {name for name, stride in strides.items() if stride == max(strides.values())}
    return coarsest
