"""SpineNet and its kin in the suite that all of our backbones pass."""

from backbone_suite import BackboneSuite

from deepfuse_d2.modeling.backbone.spinenet_tables import VARIANTS


class SpineNetSuite(BackboneSuite):
    """Outputs are p3 to p7; a stage is a block of the table."""

    features = ("p3", "p4", "p5", "p6", "p7")
    some_features = ("p3", "p4")
    out_features_key = "MODEL.SPINENET.OUT_FEATURES"
    norm_key = "MODEL.SPINENET.NORM"
    multiple = 128
    # at such sizes p7 has few positions to normalise over, and gradients are large
    learning_rate = 1e-6
    last_block = 16

    @property
    def checkpoint_stages(self):
        return ("stem", *(f"block{i}" for i in range(self.last_block + 1)), "endpoints")

    @property
    def freeze_all_at(self):
        # the stem, blocks 0 and on, the endpoints
        return self.last_block + 3

    def frozen_features(self, freeze_at):
        # an endpoint comes after all blocks
        return set(self.features) if freeze_at == self.freeze_all_at else set()


# SpineNet-49 with an eighth of its filters
NARROW = [
    {"LEVEL": b.level, "KIND": b.kind, "INPUTS": list(b.inputs), "ADD": list(b.add),
     "WIDTH": b.width // 8, "OUTPUT": b.output}
    for b in VARIANTS["SpineNet-49"].blocks[:15]
]  # fmt: skip


class TestNarrowSpineNet(SpineNetSuite):
    overrides = (
        "MODEL.BACKBONE.NAME", "build_spinenet_backbone", "MODEL.SPINENET.NAME", "SpineNet-49",
        "MODEL.SPINENET.ENDPOINT_CHANNELS", 32, "MODEL.SPINENET.BLOCKS", NARROW,
    )  # fmt: skip


class TestMBConv49XS(SpineNetSuite):
    overrides = (
        "MODEL.BACKBONE.NAME", "build_spinenet_backbone", "MODEL.SPINENET.NAME", "MBConv-49XS",
    )  # fmt: skip
    last_block = 17


class TestM0(SpineNetSuite):
    overrides = (
        "MODEL.BACKBONE.NAME", "build_spinenet_backbone", "MODEL.SPINENET.NAME", "m0",
    )  # fmt: skip
