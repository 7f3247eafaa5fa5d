"""detectron2's own ResNet in the suite that all of our backbones pass."""

from backbone_suite import BackboneSuite


class TestDetectron2ResNet(BackboneSuite):
    overrides = (
        "MODEL.BACKBONE.NAME", "build_resnet_backbone",
        "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
    )  # fmt: skip
    # detectron2 has no activation checkpointing in its ResNet
    checkpoint_stages = ()
