"""Data sets: their registration with detectron2, their loaders, and the generator of MiniCity.

Importing this package registers them and reads no file.
"""

from .datasets.builtin import register_all
from .datasets.catalog import datasets_root
from .datasets.cityscapes import register_cityscapes_layout
from .datasets.extra import register_extra

__all__ = ["datasets_root", "register_all", "register_cityscapes_layout", "register_extra"]

register_all()
