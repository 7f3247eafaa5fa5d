"""Safe loading and saving of weights; conversion of public ones."""

from .checkpointer import DeepFuseCheckpointer

__all__ = ["DeepFuseCheckpointer"]
