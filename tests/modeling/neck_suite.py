"""What every entry of NECK_REGISTRY must do; a neck joins by one line in test_necks.py."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from deepfuse_d2 import add_deepfuse_config


def small_config(*overrides):
    """A ResNet-18 without normalisation under a narrow neck."""
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_neck_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.NECK.OUT_CHANNELS = 32
    cfg.merge_from_list(list(overrides))
    return cfg


def build(*overrides):
    return build_backbone(small_config(*overrides), ShapeSpec(channels=3))


class NeckSuite:
    """Inherit and set `overrides`, the config pairs that choose the neck."""

    overrides: tuple = ()

    @pytest.mark.parametrize("top_block", ["maxpool", "p6p7", "none"])
    @pytest.mark.parametrize("size", [(64, 96), (70, 101)])
    def test_outputs_have_the_declared_channels_and_strides(self, size, top_block):
        extra = {"maxpool": ["p6"], "p6p7": ["p6", "p7"], "none": []}[top_block]
        names = ["p2", "p3", "p4", "p5", *extra]
        self.check_outputs(size, names, "MODEL.NECK.TOP_BLOCK", top_block)

    def check_outputs(self, size, names, *overrides):
        neck = build(*self.overrides, *overrides).eval()
        outputs = neck(torch.randn(2, 3, *size))
        shapes = neck.output_shape()
        assert list(outputs) == list(shapes) == names
        for name, feature in outputs.items():
            # a map of stride s has ceil(size / s) rows, whatever the size
            rows, columns = (-(-length // shapes[name].stride) for length in size)
            assert feature.shape == (2, shapes[name].channels, rows, columns), name

    def test_every_parameter_gets_a_finite_gradient_once_training_has_begun(self):
        neck = build(*self.overrides).train()
        # small: without normalisation the maps are large, and a large step would saturate a gate
        optimizer = torch.optim.SGD(neck.parameters(), lr=1e-4)
        image = torch.randn(1, 3, 64, 64)
        for _ in range(2):
            optimizer.zero_grad()
            sum(p.square().mean() for p in neck(image).values()).backward()
            optimizer.step()
        for name, parameter in neck.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name

    def test_state_dict_round_trip_keeps_the_outputs(self):
        first, second = build(*self.overrides).eval(), build(*self.overrides).eval()
        second.load_state_dict(first.state_dict(), strict=True)
        image = torch.randn(1, 3, 64, 64)
        for a, b in zip(first(image).values(), second(image).values(), strict=True):
            assert torch.equal(a, b)

    def test_runs_in_bfloat16(self):
        neck = build(*self.overrides).eval().to(torch.bfloat16)
        outputs = neck(torch.randn(1, 3, 64, 64, dtype=torch.bfloat16))
        for name, feature in outputs.items():
            assert feature.dtype == torch.bfloat16, name
            assert torch.isfinite(feature).all(), name

    def test_channels_last_gives_what_contiguous_gives(self):
        neck = build(*self.overrides).eval()
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = neck(image)
            found = neck.to(memory_format=torch.channels_last)(
                image.to(memory_format=torch.channels_last)
            )
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)
