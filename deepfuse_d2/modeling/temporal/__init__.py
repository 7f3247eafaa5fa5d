"""Series of images: encoders (the dates of a pixel -> one vector), and fusion with an image."""

from .attention import TemporalAttention
from .attentive_gru import AttentiveGRU
from .dates import DATE_ENCODINGS, encode_dates, usable_dates_first
from .fusion import FUSIONS, DeepFuseFusion, LinearFusion, MLPFusion
from .series import SERIES_ENCODERS, encode_pixels

__all__ = [
    "DATE_ENCODINGS",
    "FUSIONS",
    "SERIES_ENCODERS",
    "AttentiveGRU",
    "DeepFuseFusion",
    "LinearFusion",
    "MLPFusion",
    "TemporalAttention",
    "encode_dates",
    "encode_pixels",
    "usable_dates_first",
]
