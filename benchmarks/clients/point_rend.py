#!/usr/bin/env python3
"""PointRend's heads on our necks: a step of training, and a prediction.

git clone https://github.com/facebookresearch/detectron2 CHECKOUT
python -m benchmarks.clients.point_rend CHECKOUT
"""

import torch
from detectron2.data import build_detection_train_loader
from detectron2.modeling import build_model

from deepfuse_d2 import add_deepfuse_config, get_config

from .checkout import NARROW, arguments, import_project, learn_once, our_defaults

KEYS = [
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE", "", "MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead",
    "MODEL.ROI_MASK_HEAD.FC_DIM", "64", "MODEL.ROI_MASK_HEAD.NUM_FC", "2",
    "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION", "7",
    "MODEL.ROI_MASK_HEAD.IN_FEATURES", "['p2']", "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", "True",
    "MODEL.POINT_HEAD.FC_DIM", "32", "MODEL.POINT_HEAD.IN_FEATURES", "['p2']",
    "INPUT.MASK_FORMAT", "bitmask",
]  # fmt: skip


def main(argv=None):
    args = arguments(__doc__, argv)
    project = import_project(args.checkout, "PointRend", "point_rend")
    for neck in ("FPN", "DeepFuseFPN", "PAFPN", "BiFPN"):
        cfg = our_defaults()
        project.add_pointrend_config(cfg)
        add_deepfuse_config(cfg)
        cfg.merge_from_other_cfg(get_config(args.recipe, [*NARROW, "MODEL.NECK.NAME", neck]))
        classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        cfg.merge_from_list([*KEYS, "MODEL.POINT_HEAD.NUM_CLASSES", classes])
        torch.manual_seed(0)
        model = build_model(cfg)
        print(f"{neck}: {type(model.roi_heads.mask_head).__name__}")
        batch = next(iter(build_detection_train_loader(cfg)))
        learn_once(model, batch)
        with torch.no_grad():
            found = model.eval()([{"image": batch[0]["image"]}])[0]["instances"]
        print(f"{len(found)} instances, masks {tuple(found.pred_masks.shape)}")


if __name__ == "__main__":
    main()
