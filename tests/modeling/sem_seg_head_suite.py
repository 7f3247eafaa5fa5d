"""What every semantic head must do; a head joins by a small class in its test file:

class TestMyHead(SemSegHeadSuite):
    overrides = ("MODEL.SEM_SEG_HEAD.NAME", "MyHead")
"""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from deepfuse_d2 import add_deepfuse_config

NUM_CLASSES = 3
CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 20}
SHAPES = {
    name: ShapeSpec(channels=channels, stride=4 * 2**i)
    for i, (name, channels) in enumerate(CHANNELS.items())
}


def resnet_shapes(finest=256):
    """Of a ResNet's features: 256 channels and twice as many a stage, or 64 for ResNet-18."""
    return {
        name: ShapeSpec(channels=finest * 2**i, stride=4 * 2**i) for i, name in enumerate(CHANNELS)
    }


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def randomize(module, std=0.2):
    """Leave every special starting point (zero convolutions, scales)."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return module


def head_config(*overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = list(CHANNELS)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 16
    cfg.MODEL.REFINENET.WIDTHS = [12, 8]
    cfg.MODEL.REFINENET.INIT = "identity"
    cfg.MODEL.GCN.KERNEL_SIZE = [5]
    cfg.merge_from_list(list(overrides))
    return cfg


def build_head(*overrides, shapes=SHAPES):
    cfg = head_config(*overrides)
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, shapes)


def random_features(size=(64, 96), batch=2, shapes=SHAPES, **options):
    """What a backbone gives for an image of `size`: maps of ceil(size / stride)."""
    return {
        name: torch.randn(batch, shape.channels, *(-(-s // shape.stride) for s in size), **options)
        for name, shape in shapes.items()
    }


class SemSegHeadSuite:
    """Inherit and set `overrides`, the config pairs that choose the head."""

    overrides: tuple = ()
    # stride of the scores
    stride: int = 4
    # auxiliary outputs in training: name -> stride, or None for one that is about the whole image
    auxiliary: dict = {}  # noqa: RUF012
    # whether two training passes differ (dropout)
    is_random_in_training: bool = False
    shapes: dict = SHAPES

    def build(self, *more):
        return build_head(*self.overrides, *more, shapes=self.shapes)

    def features(self, *args, **options):
        return random_features(*args, shapes=self.shapes, **options)

    @pytest.mark.parametrize("size", [(64, 96), (70, 101), (33, 65)])
    def test_scores_have_one_channel_a_class_and_the_declared_stride(self, size):
        outputs = self.build().eval()(self.features(size))
        assert list(outputs) == ["sem_seg"]
        # a head that doubles the map of stride 4 gives that size, whatever the image's
        finest = min(shape.stride for shape in self.shapes.values())
        sides = [-(-side // finest) * finest // self.stride for side in size]
        assert outputs["sem_seg"].shape == (2, NUM_CLASSES, *sides)

    @pytest.mark.parametrize("size", [(64, 96), (70, 101)])
    def test_training_adds_the_auxiliary_outputs_that_have_weights(self, size):
        head = self.build().train()
        outputs = head(self.features(size))
        assert set(outputs) == {"sem_seg", *self.auxiliary}
        assert set(head.auxiliary_weights) == set(self.auxiliary)
        for name, stride in self.auxiliary.items():
            sides = () if stride is None else tuple(-(-side // stride) for side in size)
            assert outputs[name].shape == (2, NUM_CLASSES, *sides), name

    def test_every_parameter_gets_a_finite_gradient_once_training_has_begun(self):
        head = self.build().train()
        optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
        features = self.features()
        # what starts at zero lets gradients through from the second step on
        for _ in range(2):
            optimizer.zero_grad()
            sum(output.square().mean() for output in head(features).values()).backward()
            optimizer.step()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name

    def test_every_feature_matters_and_gets_a_gradient(self):
        head = randomize(self.build()).eval()
        features = {k: v.requires_grad_() for k, v in self.features().items()}
        head(features)["sem_seg"].square().mean().backward()
        for name, feature in features.items():
            assert feature.grad.abs().sum() > 0, name

    def test_evaluation_repeats_itself_and_treats_every_image_alone(self):
        head = randomize(self.build()).eval().double()
        features = self.features(dtype=torch.float64)
        kept = {name: feature.clone() for name, feature in features.items()}
        with torch.no_grad():
            first, again = head(features)["sem_seg"], head(features)["sem_seg"]
            alone = head({name: feature[:1] for name, feature in features.items()})["sem_seg"]
        assert torch.equal(first, again)
        torch.testing.assert_close(first[:1], alone)
        for name, feature in features.items():
            assert torch.equal(feature, kept[name]), f"the head changed its input {name}"

    def test_training_is_random_only_where_the_head_drops_values(self):
        head = randomize(self.build()).train()
        features = self.features()
        with torch.no_grad():
            first, again = head(features)["sem_seg"], head(features)["sem_seg"]
            assert torch.equal(first, again) != self.is_random_in_training
            for module in head.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            expected = head.eval()(features)["sem_seg"]
            head.train()
            for module in head.modules():
                # statistics of the batch differ by right
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
            torch.testing.assert_close(head(features)["sem_seg"], expected)

    def test_state_dict_round_trip_and_deep_copy_keep_the_scores(self):
        first, second = randomize(self.build()).eval(), self.build().eval()
        second.load_state_dict(first.state_dict(), strict=True)
        features = self.features()
        expected = first(features)["sem_seg"]
        assert torch.equal(second(features)["sem_seg"], expected)
        assert torch.equal(copy.deepcopy(first)(features)["sem_seg"], expected)

    def test_runs_in_bfloat16(self):
        head = self.build().eval()
        features = self.features()
        with torch.no_grad():
            expected = head(features)["sem_seg"]
            found = head.bfloat16()({k: v.bfloat16() for k, v in features.items()})["sem_seg"]
        assert found.dtype == torch.bfloat16
        assert (found - expected).norm() < 0.1 * expected.norm()

    def test_trains_under_autocast_to_bfloat16(self):
        head = self.build().train()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = head(self.features())
        sum(output.float().square().mean() for output in outputs.values()).backward()
        for name, parameter in head.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name

    def test_channels_last_gives_what_contiguous_gives(self):
        head = self.build().eval()
        features = self.features()
        with torch.no_grad():
            expected = head(features)["sem_seg"]
            found = head.to(memory_format=torch.channels_last)(
                {k: v.to(memory_format=torch.channels_last) for k, v in features.items()}
            )["sem_seg"]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)

    def test_a_torchscript_trace_serves_other_sizes(self):
        head = self.build().eval()
        with torch.no_grad():
            traced = torch.jit.trace(head, (self.features(),), strict=False)
            for size in ((64, 96), (70, 101)):
                features = self.features(size, batch=1)
                torch.testing.assert_close(
                    traced(features)["sem_seg"], head(features)["sem_seg"], rtol=1e-4, atol=1e-4
                )

    def test_torch_export_gives_the_same_scores(self):
        head = self.build().eval()
        features = self.features()
        with torch.no_grad():
            exported = torch.export.export(head, (features,)).module()
            torch.testing.assert_close(
                exported(features)["sem_seg"], head(features)["sem_seg"], rtol=1e-4, atol=1e-4
            )
