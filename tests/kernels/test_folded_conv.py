"""A frozen norm folded into its convolution in training: same outputs, same gradients."""

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn import functional as F

from deepfuse_d2.kernels.folded_conv import FoldedConv2d, can_fold


def conv(norm=True, **options):
    module = Conv2d(
        4, 6, 3, padding=1, norm=FrozenBatchNorm2d(6) if norm else None, **options
    ).double()
    if norm:
        module.norm.weight.uniform_(-2, 2)
        module.norm.bias.normal_()
        module.norm.running_mean.normal_()
        module.norm.running_var.uniform_(0.1, 3)
    return module


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [None, F.relu])
@pytest.mark.parametrize("groups", [1, 2])
def test_outputs_and_gradients_stay(bias, activation, groups):
    module = conv(bias=bias, activation=activation, groups=groups, stride=2)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    inputs = [x, *module.parameters()]
    assert len(inputs) == 2 + bias
    expected = module(x)
    weights = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, inputs, weights)
    assert can_fold(module)
    module.__class__ = FoldedConv2d
    found = module(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, inputs, weights), expected_gradients)


def test_names_stay_and_a_norm_that_is_replaced_later_counts():
    module = conv(bias=False)
    names = list(module.state_dict())
    module.__class__ = FoldedConv2d
    assert list(module.state_dict()) == names
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    module.norm = nn.GroupNorm(2, 6).double()
    plain = F.conv2d(x, module.weight, padding=1)
    torch.testing.assert_close(module(x), module.norm(plain))
    module.norm = None
    torch.testing.assert_close(module(x), plain)


def test_other_convolutions_are_left_alone():
    class Own(Conv2d):
        pass

    assert not can_fold(conv(norm=False))
    assert not can_fold(Conv2d(4, 6, 3, norm=nn.BatchNorm2d(6)))
    assert not can_fold(Own(4, 6, 3, norm=FrozenBatchNorm2d(6)))
    assert not can_fold(nn.Conv2d(4, 6, 3))
