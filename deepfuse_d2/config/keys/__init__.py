"""Every config key that deepfuse_d2 adds to detectron2's, with meaning, unit and allowed values.

Two places hold them, so that they meet no key of another project:

- nodes that are ours as a whole: MODEL.NECK, MODEL.DEEPFUSE, MODEL.TIMM, ..., MONITOR, MODEL_EMA;
- DEEPFUSE_D2, for what belongs to a node of detectron2's: DEEPFUSE_D2.SOLVER.OPTIMIZER stands
  there because DeepLab, Mask2Former and others define a SOLVER.OPTIMIZER each.

DATASETS.EXTRA alone stands in a node of detectron2's. docs/config.md tells of projects side by
side, and of the names that keys had before.
"""

from detectron2.config import CfgNode

from .defaults import fill_in
from .old_names import DeepFuseCfgNode, unread_names, with_current_names

__all__ = ["add_deepfuse_config", "unread_names", "with_current_names"]


def add_deepfuse_config(cfg: CfgNode) -> None:
    """Add the keys of deepfuse_d2 to `cfg`, in place, each where it is missing.

    No default of detectron2 is changed, and no value that `cfg` has; so it may be called again, and
    before or after what other projects add. Afterwards `cfg` takes our keys under the names they
    had in earlier versions as well, from yaml files and the command line.

    Raises:
        ConfigError: another project has a value where we have a node of keys, or the reverse.
    """
    fill_in(cfg)
    # detectron2 has no hook for names that changed: the node's own class is the one way for
    # cfg.merge_from_file, however it is called, to know them. A project's own class stays.
    if type(cfg) is CfgNode:
        object.__setattr__(cfg, "__class__", DeepFuseCfgNode)
