"""Norms are folded where that changes nothing, and nowhere else."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from deepfuse_d2.inference.optimize.fold import fold_norms


def randomize(model):
    """Statistics and affine maps far from the identity."""
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            for tensor in (module.weight, module.bias):
                if tensor is not None:
                    tensor.data.normal_()
    return model.eval()


class Plain(nn.Module):
    """Convolutions and norms side by side, as torchvision and timm write them."""

    size_divisibility = 0

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 1, bias=False), FrozenBatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)
        self.conv4, self.bn4 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.pre, self.conv5 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.conv6, self.conv7, self.bn67 = (
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4),
        )
        self.conv8, self.bn8 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.unused = nn.BatchNorm2d(4)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = x + self.bn2(self.conv2(x)).relu_()
        x = self.bn3(self.conv3(x))
        y = self.conv4(x)  # seen by the norm and by the sum
        x = y + self.bn4(y)
        x = self.conv5(self.pre(x).relu())
        x = self.bn67(self.conv6(x)) + self.bn67(self.conv7(x))  # one norm of two
        z = self.conv8(x)
        z += 1  # changed before the norm sees it
        return self.bn8(z)


@torch.no_grad()
def test_a_run_shows_which_norms_follow_a_convolution_alone():
    model = randomize(Plain())
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    assert fold_norms(model, model, lambda: model(torch.zeros(1, 3, 64, 64))) == 3
    folded = [name for name, m in model.named_children() if isinstance(m, nn.Identity)]
    assert folded == ["bn1", "bn2", "bn3"]
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_norms_inside_and_behind_convolutions_are_folded_without_a_run(bias):
    shared = nn.Conv2d(4, 4, 1)
    model = randomize(
        nn.Sequential(
            Conv2d(3, 4, 3, bias=bias, norm=nn.BatchNorm2d(4), activation=F.relu),
            nn.Sequential(nn.Conv2d(4, 4, 1, bias=bias), FrozenBatchNorm2d(4), nn.ReLU()),
            nn.Sequential(Conv2d(4, 4, 1, bias=bias, activation=F.relu), nn.BatchNorm2d(4)),
            nn.Sequential(shared, nn.BatchNorm2d(4), shared),
            Conv2d(4, 32, 1, norm=nn.GroupNorm(4, 32)),
            nn.Sequential(nn.Conv2d(32, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        )
    )
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    assert fold_norms(model) == 2
    assert model[0].norm is None
    assert [type(model[i][1]) for i in (1, 2, 3, 5)] == [nn.Identity] + [nn.BatchNorm2d] * 3
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_norm_in_training_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    assert fold_norms(model) == 0


@torch.no_grad()
def test_a_backbone_that_takes_no_image_is_left_as_it_is(caplog):
    class Odd(Plain):
        def forward(self, x):
            raise TypeError("two images, please")

    odd = randomize(Odd())
    assert fold_norms(odd, odd, lambda: odd(torch.zeros(1, 3, 64, 64))) == 0
    assert "does not run on a black image" in caplog.text
