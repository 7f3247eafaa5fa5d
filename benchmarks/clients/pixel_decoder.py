#!/usr/bin/env python3
"""Mask2Former's pixel decoders on our backbones.

    git clone https://github.com/facebookresearch/Mask2Former CHECKOUT
    python -m benchmarks.clients.pixel_decoder CHECKOUT

Its deformable attention wants a compiled operator at import (``sh make.sh`` in
mask2former/modeling/pixel_decoder/ops, with a GPU's compiler); where that is missing, an empty
module takes its name, and the attention's own computation by PyTorch is used. Of its package the
pixel decoders alone are imported: the rest wants panopticapi and data sets.
"""

import importlib
import importlib.util
import sys
import types

import torch
from detectron2.modeling import build_backbone

from .checkout import arguments, our_defaults

BACKBONES = {
    "build_res2net_backbone": ["MODEL.RESNETS.DEPTH", "50"],
    "build_deepfuse_resnet_backbone": ["MODEL.RESNETS.DEPTH", "50"],
    "build_fishnet_backbone": [],
    "build_spinenet_backbone": [],
    "build_timm_backbone": ["MODEL.TIMM.NAME", "resnet18", "MODEL.TIMM.PRETRAINED", "False"],
    "build_neck_backbone": ["MODEL.NECK.NAME", "DeepFuseFPN", "MODEL.NECK.OUT_CHANNELS", "64"],
}
TRANSFORMER = {
    "transformer_dropout": 0.0,
    "transformer_nheads": 4,
    "transformer_dim_feedforward": 64,
    "transformer_enc_layers": 1,
    "conv_dim": 64,
    "mask_dim": 32,
    "norm": "GN",
}


def main(argv=None):
    args = arguments(__doc__, argv)
    fpn, deformable = _import(args.checkout)
    torch.manual_seed(0)
    for name, keys in BACKBONES.items():
        cfg = our_defaults()
        cfg.merge_from_list([
            "MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.FREEZE_AT", "0",
            "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']", *keys,
        ])  # fmt: skip
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        # four levels of doubling strides, as the decoders count them
        levels = sorted(shapes, key=lambda x: shapes[x].stride)[:4]
        shapes = {level: shapes[level] for level in levels}
        features = {k: v for k, v in backbone(torch.rand(1, 3, 128, 256)).items() if k in shapes}
        print(f"{name}: " + ", ".join(f"{k} 1/{v.stride}" for k, v in shapes.items()))
        decoders = {
            "BasePixelDecoder": fpn.BasePixelDecoder(shapes, conv_dim=64, mask_dim=32, norm="GN"),
            "MSDeformAttnPixelDecoder": deformable.MSDeformAttnPixelDecoder(
                shapes,
                transformer_in_features=levels[1:],
                common_stride=shapes[levels[0]].stride,
                **TRANSFORMER,
            ),
        }
        for kind, decoder in decoders.items():
            mask_features, _, scales = decoder.forward_features(features)
            sum([x.square().mean() for x in [mask_features, *scales]]).backward(retain_graph=True)
            sizes = [tuple(x.shape[2:]) for x in scales]
            print(f"  {kind}: masks {tuple(mask_features.shape)}, scales {sizes}")
        learning = [p for p in backbone.parameters() if p.requires_grad]
        reached = sum(p.grad is not None and bool(p.grad.isfinite().all()) for p in learning)
        print(f"  gradients reach {reached} of {len(learning)} parameters of the backbone")


def _import(checkout):
    """The two files of pixel decoders, without the packages above them."""
    if importlib.util.find_spec("MultiScaleDeformableAttention") is None:
        name = "MultiScaleDeformableAttention"
        sys.modules[name] = types.ModuleType(name)
        print("the operator is not compiled: attention by PyTorch")
    for package in ("mask2former", "mask2former.modeling", "mask2former.modeling.pixel_decoder"):
        module = types.ModuleType(package)
        module.__path__ = [str(checkout.joinpath(*package.split(".")))]
        sys.modules[package] = module
    # in its registry under its own name
    return tuple(
        importlib.import_module(f"mask2former.modeling.pixel_decoder.{x}")
        for x in ("fpn", "msdeformattn")
    )


if __name__ == "__main__":
    main()
