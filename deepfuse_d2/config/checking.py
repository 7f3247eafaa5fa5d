"""Names in a config that nothing answers to, found before anything is built."""

import difflib
import logging
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)

from ..checkpoint.model_folder import open_folder
from ..checkpoint.reading import split_entry
from ..errors import DatasetError, WeightsError
from ..modeling.neck import NECK_REGISTRY
from .flatten import flatten
from .keys import unread_names
from .look_up import look_up
from .values import check_values

__all__ = ["check_config", "check_names_of_data_sets"]

_REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.NECK.BOTTOM_UP": BACKBONE_REGISTRY,
    "MODEL.NECK.NAME": NECK_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "MODEL.ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
    "MODEL.SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
}


def check_config(cfg: CfgNode, *, data_sets: bool = True) -> None:
    """Raise the error that names the key for every name that cannot be found.

    Warns of keys that have the name of one of ours of earlier versions, and are not read.

    Args:
        data_sets: whether those of DATASETS must be registered; an application needs none.
    """
    values = flatten(cfg)
    if unread := unread_names(cfg):
        logging.getLogger(__name__).warning(
            "The config has keys that are not deepfuse_d2's any more: %s. If another project added "
            "them, all is well; if your code sets them, set those of today. See docs/config.md.",
            "; ".join(f"{old} is now {new}" for old, new in unread.items()),
        )
    for key, registry in _REGISTRIES.items():
        name = values[key]
        if name:
            look_up(registry, name, key)
    check_values(cfg)
    for key in ("DATASETS.TRAIN", "DATASETS.TEST") if data_sets else ():
        check_names_of_data_sets(key, values[key])
    weights = cfg.MODEL.WEIGHTS
    if weights and os.path.isdir(weights):
        open_folder(weights, verify=False)
    elif weights and "://" not in weights and not os.path.isfile(split_entry(weights)[0]):
        raise WeightsError(
            f'MODEL.WEIGHTS = "{weights}" does not exist (folder: {os.getcwd()}). Give an existing '
            'file, or MODEL.WEIGHTS "" to start from random weights.'
        )


def check_names_of_data_sets(key: str, names: Sequence[str]) -> None:
    """Raise a DatasetError for a name, given by `key`, that is not registered."""
    for name in names:
        if name not in DatasetCatalog:
            near = difflib.get_close_matches(str(name), DatasetCatalog.list(), n=5, cutoff=0.4)
            raise DatasetError(
                f'{key} names the data set "{name}", which is not registered. '
                + (f"Did you mean: {', '.join(near)}? " if near else "")
                + "datasets/README.md lists them and says how to register your own."
            )
