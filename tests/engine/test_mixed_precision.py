"""What stays float32 while the rest of the forward pass does not."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from test_fast_kernels import batch
from torch.nn import functional as F

from deepfuse_d2.engine import load_config
from deepfuse_d2.engine.speed.fast_kernels import use_fast_kernels
from deepfuse_d2.engine.speed.mixed_precision import keep_float32


def test_predictions_and_losses_of_mask_r_cnn_are_float32(repository, tiny_opts):
    cfg = load_config(str(repository / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml"), tiny_opts)
    torch.manual_seed(0)
    model = keep_float32(use_fast_kernels(build_model(cfg).train()), "cpu")
    seen = {}

    def note(name):
        def hook(module, args, output):
            while isinstance(output, (list, tuple)):
                output = output[0]
            seen[name] = output.dtype

        return hook

    heads = model.roi_heads
    for name, module in {
        "feature": model.backbone.fpn_output2,
        "rpn": model.proposal_generator.rpn_head,
        "boxes": heads.box_predictor,
        "pooled": heads.box_pooler,
        "masks": heads.mask_head.predictor,
    }.items():
        module.register_forward_hook(note(name))
    with EventStorage(), torch.autocast("cpu", torch.bfloat16):
        losses = model(batch(cropped=True))
    assert seen.pop("feature") == torch.bfloat16
    assert seen.pop("pooled") == torch.bfloat16
    assert set(seen.values()) == {torch.float32}
    assert len(losses) == 5
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()


def test_resizings_and_losses_of_semantic_heads_are_float32(repository):
    config = str(repository / "configs/MiniCity/sem_seg_R_18_SemSegFPN_quick.yaml")
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    model = keep_float32(build_model(cfg).train(), "cpu")
    keep_float32(model, "cpu")  # once more changes nothing
    resizings = [m for m in model.modules() if isinstance(m, torch.nn.Upsample)]
    seen = []
    for module in resizings:
        module.register_forward_hook(lambda _, args, output: seen.append((args, output)))
    samples = [
        {"image": torch.randint(0, 255, (3, 64, 96)), "sem_seg": torch.randint(0, 19, (64, 96))}
        for _ in range(2)
    ]
    with EventStorage(), torch.autocast("cpu", torch.bfloat16):
        losses = model(samples)
    assert len(seen) == len(resizings) > 2
    for (x,), y in seen:
        expected = F.interpolate(x.float(), scale_factor=2, mode="bilinear", align_corners=False)
        assert y.dtype == torch.float32
        assert torch.equal(y, expected)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()


@pytest.mark.parametrize(("channels", "is_kept"), [(24, True), (40, True), (16, False)])
def test_dilated_convolutions_without_a_right_gradient_stay_float32(channels, is_kept):
    norm = FrozenBatchNorm2d(channels)
    dilated = Conv2d(channels, channels, 3, padding=2, dilation=2, bias=False, norm=norm)
    plain = Conv2d(channels, channels, 3, padding=1)
    model = torch.nn.Sequential(plain, dilated).to(memory_format=torch.channels_last)
    names = list(model.state_dict())
    expected = copy.deepcopy(model)
    keep_float32(use_fast_kernels(model), "cpu")
    assert list(model.state_dict()) == names
    x = torch.randn(2, channels, 9, 9).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert model[0](x).dtype == torch.bfloat16
        assert model[1](x).dtype == (torch.float32 if is_kept else torch.bfloat16)
    for one in (model[1], expected[1]):
        with torch.autocast("cpu", torch.bfloat16, enabled=one is model[1]):
            one(x).square().sum().backward()
    error = (model[1].weight.grad - expected[1].weight.grad).abs().max()
    assert error < (1e-4 if is_kept else 0.05) * expected[1].weight.grad.abs().max()


def test_on_a_gpu_dilated_convolutions_are_left_alone():
    model = torch.nn.Sequential(Conv2d(24, 24, 3, dilation=2))
    assert type(keep_float32(model, "cuda")[0]) is Conv2d
