"""Data sets: their registration with detectron2, their loaders, and the generator of MiniCity.

Importing this package registers them and reads no file.
"""

from .builtin import register_all
from .catalog import datasets_root
from .cityscapes import register_cityscapes_layout
from .extra import register_extra

__all__ = ["datasets_root", "register_all", "register_cityscapes_layout", "register_extra"]

register_all()
