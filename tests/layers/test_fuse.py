"""The DeepFuse operation against its formula, its starting points and its errors."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from deepfuse_d2.layers import MERGES, UNITS, DeepFuse
from deepfuse_d2.layers.resample import resample

COMBINATIONS = list(itertools.product(MERGES, UNITS, (0, 1, 2)))


def randomize(module):
    """Leave every special starting point (zero scales, identity matrices, equal weights)."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def nearest(x, size):
    """Nearest-neighbour resampling, written out: source index = floor(i * n_in / n_out)."""
    rows = [i * x.shape[2] // size[0] for i in range(size[0])]
    columns = [j * x.shape[3] // size[1] for j in range(size[1])]
    return x[:, :, rows][:, :, :, columns]


def conv(layer, x, groups=1):
    padding = layer.weight.shape[-1] // 2
    return F.conv2d(x, layer.weight, layer.bias, padding=padding, groups=groups)


def unit_reference(name, unit, x):
    """The transforms of the units from their weights, in plain functions."""
    x = x.clamp(min=0)
    if name == "residual":
        return conv(unit.conv2, conv(unit.conv1, x).clamp(min=0))
    if name == "bottleneck":
        return conv(unit.conv3, conv(unit.conv2, conv(unit.conv1, x).clamp(min=0)).clamp(min=0))
    if name == "dense":
        maps = [x]
        for layer in unit.convs:
            maps.append(conv(layer, torch.cat(maps, 1)).clamp(min=0))
        return conv(unit.fuse, torch.cat(maps, 1))
    if name == "separable":
        channels = [
            F.conv2d(x[:, [c]], unit.depthwise.weight[[c]], unit.depthwise.bias[[c]], padding=3)
            for c in range(x.shape[1])
        ]
        return conv(unit.pointwise2, conv(unit.pointwise1, torch.cat(channels, 1)).clamp(min=0))
    assert name == "multi_scale"
    x1, x2, x3, x4 = conv(unit.reduce, x).clamp(min=0).chunk(4, dim=1)
    y2 = conv(unit.convs[0], x2).clamp(min=0)
    y3 = conv(unit.convs[1], x3 + y2).clamp(min=0)
    y4 = conv(unit.convs[2], x4 + y3).clamp(min=0)
    return conv(unit.expand, torch.cat([x1, y2, y3, y4], 1))


def merge_reference(name, merge, xs):
    if name == "sum":
        return sum(xs)
    if name == "weighted_sum":
        exponentials = merge.logits.exp()
        weights = exponentials / exponentials.sum() * len(xs)
        return sum(w * x for w, x in zip(weights, xs, strict=True))
    if name == "gated":
        total = xs[0]
        for gate, x in zip(merge.gates, xs[1:], strict=True):
            logit = ((xs[0] + x) * gate.weight[0][None]).sum(1, keepdim=True) + gate.bias
            total = total + 2 / (1 + torch.exp(-logit)) * x
        return total
    weight = merge.conv.weight[:, :, 0, 0]
    stacked = torch.cat(xs, dim=1)
    return torch.einsum("oc,nchw->nohw", weight, stacked) + merge.conv.bias[:, None, None]


@pytest.mark.parametrize("skip", ["merged", "target"])
@pytest.mark.parametrize(("merge", "unit", "depth"), COMBINATIONS)
def test_equals_its_formula_in_float64(merge, unit, depth, skip):
    fuse = DeepFuse([8, 6, 5], 8, merge=merge, unit=unit, depth=depth, align=True, skip=skip)
    fuse = randomize(fuse).double()
    target = torch.randn(2, 8, 9, 11, dtype=torch.float64)
    sources = [
        torch.randn(2, 6, 5, 6, dtype=torch.float64),
        torch.randn(2, 5, 18, 22, dtype=torch.float64),
    ]

    aligned = [
        F.conv2d(x, conv.weight, conv.bias)
        for conv, x in zip(fuse.align, [target, *sources], strict=True)
    ]
    resampled = [aligned[0]] + [nearest(x, (9, 11)) for x in aligned[1:]]
    m = merge_reference(merge, fuse.merge, resampled)
    h = m
    for i, unit_module in enumerate(fuse.deepen.units):
        h = unit_reference(unit, unit_module, h) + (0 if i == 0 else h)
    start = m if skip == "merged" else target
    expected = m if depth == 0 and skip == "merged" else start + fuse.scale * h

    torch.testing.assert_close(fuse(target, sources), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("merge", "unit", "depth"), COMBINATIONS)
def test_zero_init_starts_as_the_plain_sum_bit_for_bit(merge, unit, depth):
    fuse = DeepFuse([16, 16], 16, merge=merge, unit=unit, depth=depth, zero_init=True)
    target, source = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 4, 4)
    expected = target + F.interpolate(source, scale_factor=2.0, mode="nearest")
    assert torch.equal(fuse(target, [source]), expected)


@pytest.mark.parametrize(("merge", "unit", "depth"), COMBINATIONS)
def test_zero_init_inserted_in_a_backbone_starts_as_the_identity(merge, unit, depth):
    fuse = DeepFuse(
        [16, 32], 16, merge=merge, unit=unit, depth=depth, align=True, skip="target", zero_init=True
    )
    target = torch.randn(2, 16, 8, 8)
    assert torch.equal(fuse(target, [torch.randn(2, 32, 4, 4)]), target)


@pytest.mark.parametrize(("merge", "unit", "depth"), COMBINATIONS)
def test_every_parameter_gets_a_finite_gradient_after_the_first_step(merge, unit, depth):
    fuse = DeepFuse([16, 16], 16, merge=merge, unit=unit, depth=depth, zero_init=True)
    optimizer = torch.optim.SGD(fuse.parameters(), lr=0.1) if list(fuse.parameters()) else None
    target, source = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 4, 4)
    for _ in range(2):
        if optimizer:
            optimizer.zero_grad()
            fuse(target, [source]).square().mean().backward()
            gradients = {name: p.grad.clone() for name, p in fuse.named_parameters()}
            optimizer.step()
    if optimizer:
        for name, gradient in gradients.items():
            assert torch.isfinite(gradient).all(), name
            assert gradient.abs().sum() > 0, name


def test_without_zero_init_the_deep_branch_counts_from_the_start():
    fuse = DeepFuse([16, 16], 16, depth=1, zero_init=False)
    x = torch.randn(1, 16, 8, 8)
    assert not torch.allclose(fuse(x, [x]), x + x)


def test_drop_path_drops_whole_samples_in_training_only():
    fuse = DeepFuse([16, 16], 16, depth=1, drop_path=0.5, zero_init=False)
    x = torch.randn(64, 16, 4, 4)
    deep = fuse.eval()(x, [x])
    torch.testing.assert_close(fuse(x, [x]), deep)
    trained = fuse.train()(x, [x])
    plain = x + x
    dropped = torch.tensor([torch.equal(a, b) for a, b in zip(trained, plain, strict=True)])
    assert 16 < dropped.sum() < 48
    # what is kept counts double, so that the mean stays
    kept = plain + 2 * (deep - plain)
    torch.testing.assert_close(trained[~dropped], kept[~dropped], rtol=1e-4, atol=1e-4)


def test_resampling_to_twice_the_size_is_that_of_fpn():
    x = torch.randn(1, 3, 5, 7)
    expected = F.interpolate(x, scale_factor=2.0, mode="nearest")
    assert torch.equal(resample(x, (10, 14)), expected)


def test_inputs_are_left_as_they_were():
    fuse = randomize(DeepFuse([16, 16], 16, merge="gated", depth=2))
    target, source = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 4, 4)
    before = target.clone(), source.clone()
    fuse(target, [source])
    assert torch.equal(target, before[0])
    assert torch.equal(source, before[1])


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_norms_take_the_place_of_biases(norm):
    fuse = DeepFuse([32, 32], 32, unit="residual", depth=1, norm=norm, align=True, align_norm=norm)
    names = {name for name, _ in fuse.named_parameters()}
    assert "deepen.units.0.conv1.norm.weight" in names
    assert "deepen.units.0.conv1.bias" not in names
    assert "align.0.norm.weight" in names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"merge": "mean"}, r'merge "mean" is unknown; choose one of \[.sum.'),
        ({"unit": "wide"}, r'unit "wide" is unknown; choose one of \[.residual.'),
        ({"depth": -1}, "depth is -1; it must be 0 or more"),
        ({"drop_path": 1.0}, r"drop_path is 1.0; it must be in \[0, 1\)"),
        ({"skip": "none"}, 'skip "none" is unknown; choose one of'),
        ({"norm": "XN", "depth": 1}, 'norm "XN" is unknown; choose one of ""'),
        ({"norm": "GN", "depth": 1}, "16 channels do not divide"),
        ({"in_channels": [16, 8]}, "without alignment; pass align=True"),
        ({"in_channels": [8, 8], "align": True, "skip": "target"}, "must equal out_channels"),
        (
            {"in_channels": [6, 6], "out_channels": 6, "unit": "bottleneck"},
            "multiple of 4, or the unit 'residual'",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepFuse(**{"in_channels": [16, 16], "out_channels": 16, **arguments})
