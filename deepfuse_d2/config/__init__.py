"""Config keys, their names and recipes. This module is on the ground: it imports no other room."""

from .keys import add_deepfuse_config

__all__ = ["add_deepfuse_config"]
