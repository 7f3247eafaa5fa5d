"""deepfuse_d2: feature fusion for segmentation with Detectron2.

Importing the package registers its necks, backbones and data sets with detectron2; it reads no
file and touches neither network nor GPU.
"""

from . import data, modeling  # noqa: F401  (imported for their registrations)
from .config.checking import check_config
from .config.keys import add_deepfuse_config
from .config.loading import load_config
from .config.recipes import get_config, list_configs
from .version import __version__

__all__ = [
    "__version__",
    "add_deepfuse_config",
    "check_config",
    "get_config",
    "list_configs",
    "load_config",
]
