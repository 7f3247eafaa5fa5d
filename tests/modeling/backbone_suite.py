"""What every bottom-up network must do; one joins by a small class in its test file:

class TestMyNet(BackboneSuite):
    overrides = ("MODEL.BACKBONE.NAME", "build_mynet_backbone", "MODEL.MYNET.DEPTH", 14)

Choose a small variant: the suite builds it some thirty times. What a network cannot do is switched
off by an attribute, with the reason in a comment beside it.
"""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from deepfuse_d2 import add_deepfuse_config

FEATURES = ("res2", "res3", "res4", "res5")


def backbone_config(*overrides):
    """Live batch norms, nothing frozen, all four features."""
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = list(FEATURES)
    cfg.merge_from_list(list(overrides))
    return cfg


def build(*overrides):
    return build_backbone(backbone_config(*overrides), ShapeSpec(channels=3))


def perturb_norms(module):
    """Give every norm statistics and weights of its own, as a trained network has."""
    for m in module.modules():
        if isinstance(m, (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)):
            with torch.no_grad():
                m.running_mean.uniform_(-0.3, 0.3)
                m.running_var.uniform_(0.5, 1.5)
                m.weight.uniform_(0.5, 1.5)
                m.bias.uniform_(-0.3, 0.3)
    return module


def level(name):
    """Of a feature by its name, "res3" or "p3"; its stride is 2^level."""
    return int(name.removeprefix("res").removeprefix("p"))


def follows_the_batch(module):
    """Whether it is a batch norm that is trained; FixedBN never is."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training


def loss_of(features):
    """A different weight for every value, so that no norm can make the sum a constant."""
    generator = torch.Generator().manual_seed(1)
    return sum(
        (f.float() * torch.randn(f.shape, generator=generator)).mean() for f in features.values()
    )


class BackboneSuite:
    """Inherit and set `overrides`, the config pairs that choose the network."""

    overrides: tuple = ()
    features: tuple = FEATURES
    # the key that chooses the features to give; None where there is none
    out_features_key: str | None = "MODEL.RESNETS.OUT_FEATURES"
    # the key that chooses the norm; None where it is fixed
    norm_key: str | None = "MODEL.RESNETS.NORM"
    # how an application may take the network along: "trace" (TorchScript), "export" (torch.export)
    promised: tuple = ("trace", "export")
    # stages that DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES may name; () for a network without
    # the mechanism
    checkpoint_stages: tuple = FEATURES
    # largest MODEL.BACKBONE.FREEZE_AT, which freezes all; 0 for a network that cannot be frozen
    freeze_all_at: int = 5
    # parameters that may have a zero gradient after two steps, by a part of the name
    without_gradient: tuple = ()
    # of the two steps after which every parameter must get a gradient
    learning_rate: float = 0.01
    # two of the features, for a network that gives no others
    some_features: tuple = ("res3", "res4")
    # height and width of images must be multiples of this
    multiple: int = 1

    def build(self, *more):
        return build(*self.overrides, *more)

    def images(self, number, height, width, **options):
        """Noise of that size, rounded up to what the network takes."""
        sides = [-(-side // self.multiple) * self.multiple for side in (height, width)]
        return torch.randn(number, 3, *sides, **options)

    def frozen_features(self, freeze_at):
        """Features that depend on frozen layers alone with MODEL.BACKBONE.FREEZE_AT `freeze_at`.

        detectron2's meaning: 1 freezes the stem, 2 the stem and res2, and so on.
        """
        return {name for name in self.features if level(name) <= freeze_at}

    @pytest.mark.parametrize("size", [(64, 96), (70, 101), (33, 65)])
    def test_outputs_have_the_declared_names_channels_and_strides(self, size):
        network = self.build().eval()
        with torch.no_grad():
            image = self.images(2, *size)
            outputs = network(image)
        shapes = network.output_shape()
        assert list(outputs) == list(shapes) == list(self.features)
        assert [s.stride for s in shapes.values()] == [2 ** level(name) for name in shapes]
        for name, feature in outputs.items():
            # a map of stride s has ceil(size / s) rows, whatever the size
            rows, columns = (-(-side // shapes[name].stride) for side in image.shape[2:])
            assert feature.shape == (2, shapes[name].channels, rows, columns), name

    def test_gives_the_features_asked_for_and_keeps_no_layer_that_none_of_them_needs(self):
        if self.out_features_key is None:
            pytest.skip("gives all of its features, always")
        network = self.build(self.out_features_key, list(self.some_features)).train()
        outputs = network(self.images(2, 64, 64))
        assert list(outputs) == list(network.output_shape()) == list(self.some_features)
        loss_of(outputs).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name

    def test_every_parameter_gets_a_finite_gradient_once_training_has_begun(self):
        network = self.build().train()
        optimizer = torch.optim.SGD(network.parameters(), lr=self.learning_rate)
        image = self.images(2, 64, 64)
        # gates that start at zero let gradients through from the second step on
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(network(image)).backward()
            optimizer.step()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            if not any(part in name for part in self.without_gradient):
                assert parameter.grad.abs().sum() > 0, name

    def test_evaluation_remembers_nothing_and_treats_every_image_alone(self):
        network = perturb_norms(self.build()).eval().double()
        before = copy.deepcopy(network.state_dict())
        images = self.images(2, 64, 64, dtype=torch.float64)
        kept = images.clone()
        with torch.no_grad():
            together, first = network(images), network(images[:1])
        assert torch.equal(images, kept), "the network changed its input"
        for name in together:
            torch.testing.assert_close(together[name][:1], first[name], msg=name)
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_training_follows_the_batch_and_its_statistics(self):
        network = self.build()
        norms = [m for m in network.train().modules() if follows_the_batch(m)]
        assert norms, "the suite builds with live batch norms; see backbone_config"
        before = [norm.running_mean.clone() for norm in norms]
        image = self.images(2, 64, 64)
        with torch.no_grad():
            evaluated = network.eval()(image)
            trained = network.train()(image)
        for name in evaluated:
            assert not torch.allclose(evaluated[name], trained[name], rtol=1e-3), name
        for norm, mean in zip(norms, before, strict=True):
            assert norm.num_batches_tracked == 1
            assert not torch.equal(norm.running_mean, mean)

    def test_a_returned_feature_is_nobodys_scratch_space(self):
        network = self.build().eval()
        with torch.no_grad():
            outputs = network(self.images(1, 64, 64))
            kept = {name: feature.clone() for name, feature in outputs.items()}
            network(self.images(1, 64, 64))
        pointers = [feature.data_ptr() for feature in outputs.values()]
        assert len(set(pointers)) == len(pointers), "two features share memory"
        for name in outputs:
            assert torch.equal(outputs[name], kept[name]), name

    def test_state_dict_round_trip_and_deep_copy_keep_the_outputs(self):
        first, second = perturb_norms(self.build()).eval(), self.build().eval()
        second.load_state_dict(first.state_dict(), strict=True)
        image = self.images(1, 64, 64)
        with torch.no_grad():
            expected, found, copied = first(image), second(image), copy.deepcopy(first)(image)
        for name in expected:
            assert torch.equal(expected[name], found[name]), name
            assert torch.equal(expected[name], copied[name]), name

    def test_runs_in_bfloat16(self):
        network = self.build().eval()
        image = self.images(1, 64, 64)
        with torch.no_grad():
            expected = network(image)
            found = network.to(torch.bfloat16)(image.bfloat16())
        for name, feature in found.items():
            assert feature.dtype == torch.bfloat16, name
            assert (feature - expected[name]).norm() < 0.1 * expected[name].norm(), name

    def test_trains_under_autocast_to_bfloat16(self):
        network = self.build().train()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(self.images(2, 64, 64))
        loss_of(outputs).backward()
        for name, feature in outputs.items():
            assert torch.isfinite(feature).all(), name
        for name, parameter in network.named_parameters():
            assert parameter.dtype == torch.float32, name
            assert torch.isfinite(parameter.grad).all(), name

    def test_channels_last_gives_what_contiguous_gives_and_stays_channels_last(self):
        network = perturb_norms(self.build()).eval()
        image = self.images(2, 64, 96)
        with torch.no_grad():
            expected = network(image)
            found = network.to(memory_format=torch.channels_last)(
                image.to(memory_format=torch.channels_last)
            )
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3)
            assert found[name].is_contiguous(memory_format=torch.channels_last), name

    def test_a_torchscript_trace_serves_other_sizes(self):
        if "trace" not in self.promised:
            pytest.skip("tracing is not promised")
        network = perturb_norms(self.build()).eval()
        with torch.no_grad():
            traced = torch.jit.trace(network, self.images(1, 64, 64), strict=False)
            for size in ((1, 64, 64), (2, 70, 201)):
                image = self.images(*size)
                expected, found = network(image), traced(image)
                assert set(found) == set(expected)
                for name in expected:
                    torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)

    def test_torch_export_gives_the_same_features(self):
        if "export" not in self.promised:
            pytest.skip("torch.export is not promised")
        network = perturb_norms(self.build()).eval()
        image = self.images(1, 64, 96)
        with torch.no_grad():
            exported = torch.export.export(network, (image,)).module()
            expected, found = network(image), exported(image)
        assert list(found) == list(expected)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)

    def test_activation_checkpointing_changes_memory_and_nothing_else(self):
        if not self.checkpoint_stages:
            pytest.skip("has no activation checkpointing")
        stages = list(self.checkpoint_stages)
        plain = self.build().train().double()
        saving = self.build("DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES", stages).train().double()
        saving.load_state_dict(plain.state_dict(), strict=True)
        image = self.images(2, 64, 64, dtype=torch.float64)

        kept, results = [], []
        for network in (plain, saving):
            sizes = []

            def note(tensor, sizes=sizes):
                sizes.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                outputs = network(image)
            kept.append(sum(sizes))
            loss_of(outputs).backward()
            results.append(outputs)

        # the stem, and the input of every stage, are kept by both
        assert kept[1] < 0.7 * kept[0]
        for name in results[0]:
            assert torch.equal(results[0][name], results[1][name]), name
        gradients = dict(saving.named_parameters())
        for name, parameter in plain.named_parameters():
            torch.testing.assert_close(gradients[name].grad, parameter.grad, msg=name)
        statistics = saving.state_dict()
        for name, value in plain.state_dict().items():
            assert torch.equal(statistics[name], value), name

    def test_an_unknown_stage_to_checkpoint_is_answered_with_the_known_ones(self):
        if not self.checkpoint_stages:
            pytest.skip("has no activation checkpointing")
        known = self.checkpoint_stages[-1]
        with pytest.raises(ValueError, match=rf"CHECKPOINT_STAGES\) names \['res9'\].*{known}"):
            self.build("DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES", ["res9"])

    def test_frozen_stages_do_not_learn_and_the_others_do(self):
        if not self.freeze_all_at:
            pytest.skip("cannot be frozen")
        trained = []
        for freeze_at in range(self.freeze_all_at + 1):
            network = self.build("MODEL.BACKBONE.FREEZE_AT", freeze_at).train()
            outputs = network(self.images(2, 64, 64))
            frozen = self.frozen_features(freeze_at)
            for name, feature in outputs.items():
                assert feature.requires_grad == (name not in frozen), (freeze_at, name)
            trained.append(sum(p.numel() for p in network.parameters() if p.requires_grad))
        assert trained == sorted(set(trained), reverse=True), "each step freezes more"
        assert trained[-1] == 0
        # nothing is left that follows the batch
        assert not any(follows_the_batch(m) for m in network.modules())
        perturb_norms(network)
        image = self.images(2, 64, 64)
        expected, found = network.eval()(image), network.train()(image)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], msg=name)

    def test_the_norm_of_the_config_is_the_norm_of_the_network(self):
        if self.norm_key is None:
            pytest.skip("has a norm of its own")
        network = self.build(self.norm_key, "FrozenBN")
        assert any(isinstance(m, FrozenBatchNorm2d) for m in network.modules())
        assert not any(follows_the_batch(m) for m in network.modules())
