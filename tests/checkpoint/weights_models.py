"""Small models and images for the tests of weights."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from deepfuse_d2.engine import load_config

IMAGENET = {
    "input_format": "RGB",
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_std": (58.395, 57.12, 57.375),
}


class Detector(nn.Module):
    """A bottom-up network under the name it has in detectron2's models, without anything else."""

    def __init__(self, builder, *opts, input_format=None, pixel_mean=None, pixel_std=None):
        super().__init__()
        self.input_format = input_format
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            tensor = None if values is None else torch.tensor(values).view(-1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)
        cfg = load_config("", ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0, *opts])
        self.backbone = BACKBONE_REGISTRY.get(builder)(cfg, ShapeSpec(channels=3))


def resnet(depth, *opts, builder="build_resnet_backbone", **images):
    """detectron2's ResNet as the bottom-up network, with the stride where torchvision has it."""
    return Detector(
        builder,
        "MODEL.RESNETS.DEPTH", depth,
        "MODEL.RESNETS.NORM", "BN",
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 64 if depth < 50 else 256,
        "MODEL.RESNETS.STRIDE_IN_1X1", False,
        "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
        *opts,
        **images,
    )  # fmt: skip


def perturb_norms(model):
    """Statistics and affine parameters as a training might leave them, so that a swap shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)
    return model
