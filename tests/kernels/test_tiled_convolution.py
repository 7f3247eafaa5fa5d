"""Convolutions by tiles: outputs and gradients of the direct sum, where they are worth it."""

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn import functional as F

from deepfuse_d2.engine.speed.fast_kernels import use_fast_kernels
from deepfuse_d2.kernels import tiled_convolution
from deepfuse_d2.kernels.tiled_convolution import TiledConv2d, TiledFoldedConv2d, tiled_conv2d


@pytest.mark.parametrize("size", [(1, 64, 67), (3, 39, 36), (21, 14, 14)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_those_of_the_direct_sum_in_float64(size, memory_format):
    count, height, width = size
    x = torch.randn(count, 128, height, width).to(memory_format=memory_format)
    weight, bias = torch.randn(160, 128, 3, 3) / 34, torch.randn(160)
    short = [t.requires_grad_() for t in (x, weight, bias)]
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    found, expected = tiled_conv2d(*short), F.conv2d(*exact, padding=1)
    assert found.shape == expected.shape
    gradient = torch.randn_like(found)
    found.backward(gradient)
    expected.backward(gradient.double())
    assert (found - expected).abs().max() < 5e-5
    for ours, theirs in zip(short, exact, strict=True):
        error = (ours.grad - theirs.grad).abs().max()
        assert error < 5e-5 * theirs.grad.abs().max()


def test_only_the_gradients_that_are_asked_for_are_computed():
    x, weight = torch.randn(1, 128, 8, 8), torch.randn(128, 128, 3, 3).requires_grad_()
    tiled_conv2d(x, weight, None).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    weight = weight.detach()
    tiled_conv2d(x.requires_grad_(), weight, None).sum().backward()
    assert x.grad is not None


@pytest.fixture
def model():
    """Two convolutions that gain, one that is too narrow, one of stride 2."""
    return nn.Sequential(
        Conv2d(128, 128, 3, padding=1, bias=False, norm=FrozenBatchNorm2d(128)),
        Conv2d(128, 128, 3, padding=1, activation=F.relu),
        Conv2d(128, 16, 3, padding=1),
        Conv2d(128, 128, 3, padding=1, stride=2),
    )


def test_convolutions_that_gain_are_exchanged_and_no_others(model):
    names = list(model.state_dict())
    use_fast_kernels(model)
    assert [type(m) for m in model] == [TiledFoldedConv2d, TiledConv2d, Conv2d, Conv2d]
    assert list(model.state_dict()) == names


def test_the_maps_and_the_precision_decide_in_each_call(model, monkeypatch):
    calls = []
    tiled = tiled_convolution.tiled_conv2d
    monkeypatch.setattr(
        tiled_convolution, "tiled_conv2d", lambda *args: calls.append(len(args)) or tiled(*args)
    )
    pair = model[:2]
    small, large = torch.randn(1, 128, 16, 16), torch.randn(2, 128, 48, 48)
    expected = [pair(small), pair(large)]
    use_fast_kernels(pair)
    torch.testing.assert_close(pair(small), expected[0])
    assert not calls
    torch.testing.assert_close(pair(large), expected[1], rtol=1e-4, atol=1e-4)
    assert len(calls) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert pair(large).dtype == torch.bfloat16
    assert len(calls) == 2
    traced = torch.jit.trace(pair, large, check_trace=False)
    assert len(calls) == 2
    torch.testing.assert_close(traced(small), expected[0])
