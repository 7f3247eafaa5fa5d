"""Faster modules and masks leave losses and gradients what they were."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from deepfuse_d2.engine import load_config
from deepfuse_d2.engine.speed.fast_kernels import use_fast_kernels
from deepfuse_d2.kernels.folded_conv import FoldedConv2d
from deepfuse_d2.kernels.roi_align import RowROIAlign
from deepfuse_d2.structures.cropped_masks import CroppedMasks
from deepfuse_d2.structures.mask_crops import MaskCrop


def batch(cropped):
    """Two images with two instances each; their masks as full images, or cropped."""
    random = np.random.default_rng(0)
    samples = []
    for _ in range(2):
        windows = [(8, 10, 60, 50), (70, 5, 120, 60)]
        crops = [
            MaskCrop(y0, x0, random.random((y1 - y0, x1 - x0)) < 0.8) for x0, y0, x1, y1 in windows
        ]
        masks = CroppedMasks.from_crops(crops, (64, 128))
        instances = Instances((64, 128))
        instances.gt_boxes = Boxes(torch.tensor(windows, dtype=torch.float32))
        instances.gt_classes = torch.tensor([1, 2])
        instances.gt_masks = masks if cropped else BitMasks(masks.tensor)
        image = torch.from_numpy(random.integers(0, 255, (3, 64, 128), dtype=np.uint8))
        samples.append({"image": image, "instances": instances, "height": 64, "width": 128})
    return samples


def losses_and_gradients(model, samples):
    torch.manual_seed(3)
    with EventStorage():
        losses = model(samples)
    model.zero_grad()
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_losses_and_gradients_of_mask_r_cnn_stay(
    repository, tiny_opts, channels_last, dtype, monkeypatch
):
    """Losses in both types; gradients in float64, where they are to be compared at all.

    A unit whose input lies within rounding of zero passes its gradient on with one order of sums
    and not with another: in float32 a gradient may differ by what one unit gives, on some CPUs and
    not on others. In float64 none lies that near.
    """
    torch.manual_seed(0)
    cfg = load_config(str(repository / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml"), tiny_opts)
    model = build_model(cfg).train().to(dtype)
    if dtype is torch.float64:
        # what detectron2 computes in float32 on purpose
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    for name, buffer in model.named_buffers():
        # norms that change something, without letting activations of random weights grow
        if name.endswith("norm.running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("norm.weight"):
            buffer.uniform_(0.3, 0.8)
    names = list(model.state_dict())
    expected = losses_and_gradients(model, batch(cropped=False))
    assert use_fast_kernels(model) is model
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    kinds = {type(module) for module in model.modules()}
    assert {FoldedConv2d, RowROIAlign} <= kinds
    assert list(model.state_dict()) == names
    found = losses_and_gradients(model, batch(cropped=True))
    assert found[0].keys() == expected[0].keys()
    for name, loss in expected[0].items():
        assert loss > 0
        torch.testing.assert_close(found[0][name], loss, rtol=1e-5, atol=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert found[1][name].isfinite().all()
        if dtype is torch.float64:
            error = (found[1][name] - gradient).norm()
            assert error <= 1e-10 * gradient.norm(), f"{name}: {error / gradient.norm()}"
