#!/usr/bin/env python3
"""Heads of DeepLab and Panoptic-DeepLab on our backbones: losses and predictions.

    git clone https://github.com/facebookresearch/detectron2 CHECKOUT
    python -m benchmarks.clients.deeplab CHECKOUT

Panoptic-DeepLab imports panopticapi for its mapper (pip install
git+https://github.com/cocodataset/panopticapi); where that is missing, an empty stand-in for the
one function that the mapper takes from it is put in its place, and no mapper is used here.
"""

import importlib.util
import sys
import types

import torch
from detectron2.modeling import build_model

from deepfuse_d2 import add_deepfuse_config

from .checkout import arguments, import_project, learn_once, our_defaults

BACKBONES = {
    "build_res2net_backbone": ["MODEL.RESNETS.DEPTH", "50"],
    "build_deepfuse_resnet_backbone": ["MODEL.RESNETS.DEPTH", "50"],
    "build_timm_backbone": [
        "MODEL.TIMM.NAME", "resnet18", "MODEL.TIMM.PRETRAINED", "False",
        "MODEL.TIMM.OUT_FEATURES", "['res2', 'res3', 'res5']",
    ],
}  # fmt: skip
HEADS = {
    "DeepLabV3Head": ["MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "32"],
    "DeepLabV3PlusHead": ["MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "4"],
}
SMALL = [
    "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.RESNETS.NORM", "BN",
    "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res5']",
    "MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "32", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19",
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE", "hard_pixel_mining",
]  # fmt: skip


def main(argv=None):
    args = arguments(__doc__, argv)
    deeplab = import_project(args.checkout, "DeepLab", "deeplab")
    torch.manual_seed(0)
    image = 255 * torch.rand(3, 128, 192)
    labels = torch.randint(0, 19, (128, 192))
    for name, keys in BACKBONES.items():
        for head, options in HEADS.items():
            cfg = _config(deeplab.add_deeplab_config, name, keys, head, options)
            model = build_model(cfg)
            print(f"{head} on {name}")
            learn_once(model, [{"image": image, "sem_seg": labels}] * 2)
            _predict(model, image)

    panoptic = _import_panoptic_deeplab(args.checkout)
    for name, keys in BACKBONES.items():
        cfg = _config(panoptic.add_panoptic_deeplab_config, name, keys, *PANOPTIC)
        model = build_model(cfg)
        print(f"PanopticDeepLab on {name}")
        target = {
            "image": image, "sem_seg": labels, "sem_seg_weights": torch.ones(128, 192),
            "center": torch.zeros(128, 192), "center_weights": torch.ones(128, 192),
            "offset": torch.zeros(2, 128, 192), "offset_weights": torch.ones(128, 192),
            "height": 128, "width": 192,
        }  # fmt: skip
        learn_once(model, [target] * 2)


PANOPTIC = (
    "PanopticDeepLabSemSegHead",
    [
        "MODEL.META_ARCHITECTURE", "PanopticDeepLab",
        "DATASETS.TRAIN", "('minicity_fine_instance_seg_train',)",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2', 'res3', 'res5']",
        "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES", "['res2', 'res3']",
        "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", "[8, 16]",
        "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS", "32", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "4",
        "MODEL.INS_EMBED_HEAD.NAME", "PanopticDeepLabInsEmbedHead",
        "MODEL.INS_EMBED_HEAD.IN_FEATURES", "['res2', 'res3', 'res5']",
        "MODEL.INS_EMBED_HEAD.PROJECT_FEATURES", "['res2', 'res3']",
        "MODEL.INS_EMBED_HEAD.PROJECT_CHANNELS", "[8, 16]",
        "MODEL.INS_EMBED_HEAD.ASPP_CHANNELS", "32", "MODEL.INS_EMBED_HEAD.NORM", "BN",
        "MODEL.INS_EMBED_HEAD.CONVS_DIM", "16", "MODEL.INS_EMBED_HEAD.HEAD_CHANNELS", "8",
    ],
)  # fmt: skip


def _config(add_keys, backbone, keys, head, options):
    cfg = our_defaults()
    add_keys(cfg)
    add_deepfuse_config(cfg)
    inputs = "['res2', 'res5']" if head == "DeepLabV3PlusHead" else "['res5']"
    cfg.merge_from_list([
        "MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.BACKBONE.NAME", backbone,
        "MODEL.SEM_SEG_HEAD.NAME", head, "MODEL.SEM_SEG_HEAD.IN_FEATURES", inputs,
        "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES", "['res2']",
        "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", "[8]", *SMALL, *keys, *options,
    ])  # fmt: skip
    return cfg


def _predict(model, image):
    with torch.no_grad():
        found = model.eval()([{"image": image, "height": 130, "width": 190}])[0]["sem_seg"]
    print(f"logits {tuple(found.shape)}")


def _import_panoptic_deeplab(checkout):
    if importlib.util.find_spec("panopticapi") is None:
        sys.modules["panopticapi"] = types.ModuleType("panopticapi")
        sys.modules["panopticapi.utils"] = types.ModuleType("panopticapi.utils")
        sys.modules["panopticapi.utils"].rgb2id = None
        print("panopticapi is not installed: a stand-in for the import of the mapper")
    return import_project(checkout, "Panoptic-DeepLab", "panoptic_deeplab")


if __name__ == "__main__":
    main()
