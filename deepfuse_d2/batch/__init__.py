"""Predictions of more images than one sitting holds: killed, started again, each exactly once."""

from .run import Settings, Summary, predict_many

__all__ = ["Settings", "Summary", "predict_many"]
