"""deepfuse_d2: feature fusion for segmentation with Detectron2.

Importing the package registers its necks, backbones and data sets with detectron2; it reads no
file and touches neither network nor GPU.
"""

import sys
import warnings

from .version import __version__

# Help and completion of the command `deepfuse` ask for nothing of this (deepfuse_command.py).
if not getattr(sys.modules.get("deepfuse_command"), "is_parsing", False):
    with warnings.catch_warnings():
        # by fvcore, at its import, where nobody can do anything about it
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        from . import data, modeling  # noqa: F401  (imported for their registrations)
        from .checkpoint.sources.timm_files import load_timm_weights
        from .config.checking import check_config
        from .config.keys import add_deepfuse_config
        from .config.loading import get_config, load_config
        from .config.recipes import list_configs
        from .modeling.backbone import timm_features

    timm_features.load_weights = load_timm_weights

__all__ = [
    "__version__",
    "add_deepfuse_config",
    "check_config",
    "get_config",
    "list_configs",
    "load_config",
]
