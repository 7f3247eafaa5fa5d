"""What MODEL.M3FUSION may say, checked before anything is built."""

from detectron2.config import CfgNode

from ...errors import ConfigError
from ..temporal import FUSIONS, SERIES_ENCODERS
from .dense_inference import OUTPUTS

__all__ = ["check_m3fusion"]


def check_m3fusion(cfg: CfgNode) -> None:
    """Raise ConfigError for values that no constructor sees as a config has them."""
    keys = cfg.MODEL.M3FUSION
    look = {"SERIES_ENCODER": SERIES_ENCODERS, "FUSION": FUSIONS}
    for key, known in look.items():
        if keys[key] not in known:
            raise ConfigError(
                f'MODEL.M3FUSION.{key} = "{keys[key]}" is unknown; choose one of {list(known)}.'
            )
    if keys.RATIO < 1 or len(keys.AUXILIARY_WEIGHTS) != 2 or min(keys.AUXILIARY_WEIGHTS) < 0:
        raise ConfigError(
            f"MODEL.M3FUSION.RATIO is {keys.RATIO} and AUXILIARY_WEIGHTS "
            f"{list(keys.AUXILIARY_WEIGHTS)}; give a ratio of 1 or more, and the weights of the "
            "series head and of the image head, 0 or more."
        )
    for key in ("SERIES_MEAN", "SERIES_STD"):
        if keys[key] and len(keys[key]) != keys.SERIES_CHANNELS:
            raise ConfigError(
                f"MODEL.M3FUSION.{key} has {len(keys[key])} numbers for {keys.SERIES_CHANNELS} "
                "bands (SERIES_CHANNELS); give one for each, or [] to take bands as they are."
            )
    if bool(keys.SERIES_MEAN) != bool(keys.SERIES_STD):
        raise ConfigError(
            "MODEL.M3FUSION.SERIES_MEAN and SERIES_STD go together; give both or none."
        )
    test = cfg.DEEPFUSE_D2.TEST.SEM_SEG
    if any(test.TILE) or tuple(test.SCALES) != (1.0,) or test.FLIP:
        raise ConfigError(
            "DEEPFUSE_D2.TEST.SEM_SEG.TILE, SCALES and FLIP are not for M3FusionSegmentor, whose "
            "inputs have two grids; leave them at their defaults. deepfuse map goes by "
            "windows."
        )
    if test.OUTPUT not in OUTPUTS:
        raise ConfigError(
            f'DEEPFUSE_D2.TEST.SEM_SEG.OUTPUT = "{test.OUTPUT}" is unknown; choose one of '
            f"{list(OUTPUTS)}."
        )
