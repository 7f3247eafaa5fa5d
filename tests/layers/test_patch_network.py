"""M3Fusion's patch network: its shapes, its field, and its forms that give the same numbers."""

import pytest
import torch
import torch.nn.functional as F

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.layers.patch_network import PATCH, PatchNetwork


def _network(channels=3, dim=8, *, norm="BN", border="exact"):
    """In float64, with norms and biases that a mistake cannot hide behind."""
    torch.manual_seed(0)
    network = PatchNetwork(channels, dim, norm=norm, border=border).double().eval()
    for name, tensor in network.state_dict().items():
        if "norm" in name or name.endswith("bias"):
            tensor.copy_(torch.rand_like(tensor.double()) + (0.5 if "var" in name else -0.3))
    return network


def _by_patches(network, image, ratio):
    """What separate patches around the pixels of the coarser grid give, cut out one by one."""
    height, width = image.shape[-2] // ratio, image.shape[-1] // ratio
    padded = F.pad(image, [PATCH] * 4)
    result = image.new_zeros(len(image), network.out_channels, height, width)
    for i in range(height):
        for j in range(width):
            # the middle of pixel i is at (i + 0.5) r - 0.5; the 24 used pixels lie around it where
            # it falls between two, the 25 where it is one
            y, x = ((k + 0.5) * ratio - 0.5 for k in (i, j))
            offset = 11.5 if ratio % 2 == 0 else 12
            top, left = int(y - offset) + PATCH, int(x - offset) + PATCH
            assert top == y - offset + PATCH
            patch = padded[..., top : top + PATCH, left : left + PATCH]
            result[..., i, j] = network(patch)
    return result


def test_a_patch_shrinks_as_the_paper_says():
    network = _network()
    shapes = []
    for module in (network.conv1, network.conv2, network.conv3, network.conv4):
        module.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[1:])))
    assert network(torch.rand(2, 3, 25, 25).double()).shape == (2, 8)
    assert shapes == [(4, 19, 19), (8, 7, 7), (8, 7, 7), (8, 7, 7)]


@pytest.mark.parametrize(("channels", "count"), [(5, 4_131_328), (4, 4_118_784)])
def test_parameters_are_those_of_the_published_sizes(channels, count):
    assert sum(p.numel() for p in PatchNetwork(channels).parameters()) == count


def test_the_last_row_and_column_of_a_patch_are_never_used():
    network, patch = _network(), torch.rand(1, 3, 25, 25).double()
    expected = network(patch)
    last, before = patch.clone(), patch.clone()
    last[..., 24, :] = 100
    last[..., :, 24] = -100
    before[..., 23, :] = 100
    assert torch.equal(network(last), expected)
    assert not torch.allclose(network(before), expected)


@pytest.mark.parametrize("border", ["exact", "valid"])
@pytest.mark.parametrize("norm", ["BN", "affine"])
@pytest.mark.parametrize(("ratio", "size"), [(1, (9, 11)), (5, (35, 25)), (4, (24, 32))])
def test_all_of_an_image_gives_what_its_patches_give(border, norm, ratio, size):
    network, image = _network(norm=norm, border=border), torch.randn(2, 3, *size).double()
    expected = _by_patches(network, image, ratio)
    dense = network.dense(image)[..., ratio // 2 :: ratio, ratio // 2 :: ratio]
    assert (dense - expected).abs().max() < 1e-10
    shared = network.at_centres(image, ratio).view(2, *expected.shape[2:], -1).permute(0, 3, 1, 2)
    assert (shared - expected).abs().max() < 1e-10


def test_the_padding_of_the_third_convolution_is_what_makes_the_dense_form_hard():
    # one map for all seven positions of a patch, as a dilated convolution would give
    network, image = _network(), torch.randn(1, 3, 30, 30).double()
    expected = network.dense(image)
    network._take_by_kind = lambda maps, axis, length: PatchNetwork._take_by_kind(
        [maps[1]] * 3, axis, length
    )
    assert (network.dense(image) - expected).abs().max() > 1e-3  # where equality is 1e-10


def test_bands_and_chunks_change_nothing():
    network, image = _network(), torch.randn(2, 3, 20, 15).double()
    assert torch.allclose(network.dense(image, 7), network.dense(image), atol=1e-12)
    whole = network.at_centres(image, 5)
    assert torch.allclose(network.at_centres(image, 5, chunk=4), whole, atol=1e-12)
    chosen = torch.tensor([11, 0, 23])
    assert torch.allclose(network.at_centres(image, 5, chosen), whole[chosen], atol=1e-12)
    patches = network.patches(image, 5)
    assert torch.allclose(network(patches), whole, atol=1e-12)


@pytest.mark.parametrize("border", ["exact", "valid"])
def test_the_dense_form_learns_what_patches_learn(border):
    network, image = _network(norm="affine", border=border), torch.randn(1, 3, 8, 8).double()
    network.dense(image).square().sum().backward()
    dense = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    _by_patches(network, image, 1).square().sum().backward()
    for parameter, gradient in zip(network.parameters(), dense, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "XN"}, 'NORM = "XN" is unknown'),
        ({"border": "same"}, 'PATCH_BORDER = "same" is unknown'),
        ({"dim": 7}, "IMAGE_DIM is 7; it must be even"),
    ],
)
def test_unknown_forms_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        PatchNetwork(3, **{"dim": 8, **arguments})
