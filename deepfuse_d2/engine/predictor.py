"""detectron2's predictor for single images, with weights that are read as everywhere here."""

import detectron2.data.transforms as T
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from ..checkpoint import DeepFuseCheckpointer

__all__ = ["SafePredictor"]


class SafePredictor(DefaultPredictor):
    """A :class:`DefaultPredictor` that executes nothing out of MODEL.WEIGHTS and checks their fit.

    Example:
        >>> predictor = SafePredictor(load_config("configs/...", ["MODEL.WEIGHTS", "..."]))
        >>> predictor(cv2.imread("street.png"))["instances"]
    """

    def __init__(self, cfg: CfgNode):
        # DefaultPredictor's own constructor takes these steps with detectron2's checkpointer.
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg).eval()
        if cfg.DATASETS.TEST:
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        checkpointer = DeepFuseCheckpointer(
            self.model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH
        )
        checkpointer.load(cfg.MODEL.WEIGHTS)
        size = cfg.INPUT.MIN_SIZE_TEST
        self.aug = T.ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT
