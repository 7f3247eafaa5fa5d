"""MiniCity: a procedural street in the exact layout of Cityscapes, to train, test and try on
without a download.
"""

from .writer import VERSION, Manifest, ensure_minicity, generate_minicity, is_complete

__all__ = ["VERSION", "Manifest", "ensure_minicity", "generate_minicity", "is_complete"]
