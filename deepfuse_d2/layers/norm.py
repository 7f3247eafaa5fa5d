"""Normalisation by name, with the mistakes named where they are made."""

import detectron2.layers
from torch import nn

__all__ = ["get_norm"]

_GROUPS = 32  # of detectron2's "GN"


def get_norm(norm: str, channels: int) -> nn.Module | None:
    """detectron2's ``get_norm`` with a check of the name and of GroupNorm's divisibility.

    Args:
        norm: "" (none), "BN", "SyncBN", "FrozenBN", "GN", "LN", ...: what detectron2 knows.
        channels: of the map to normalise.
    """
    if norm == "GN" and channels % _GROUPS:
        raise ValueError(
            f"Norm 'GN' splits channels into {_GROUPS} groups; {channels} channels do not divide. "
            f"Choose a width that is a multiple of {_GROUPS} (inside, a bottleneck unit has a "
            "quarter of the channels, a dense or multi_scale one an eighth), or another norm."
        )
    try:
        return detectron2.layers.get_norm(norm, channels)
    except KeyError as error:
        raise ValueError(
            f'The norm "{norm}" is unknown; choose one of "" (none), '
            '"BN", "SyncBN", "FrozenBN", "GN", "LN".'
        ) from error
