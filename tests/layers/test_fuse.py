"""The DeepFuse operation against its formula, its starting points and its errors."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from deepfuse_d2.layers import DOWNSAMPLES, MERGES, UNITS, UPSAMPLES, DeepFuse, FuseSettings

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


@pytest.mark.parametrize("depth", [0, 1])
def test_a_narrower_width_is_rectified_and_projected_back_before_it_is_added(depth):
    settings = FuseSettings(merge="sum", unit="residual", depth=depth)
    fuse = DeepFuse(
        [12, 6, 5], 12, settings, align=True, skip="target", width=8, strides=[8, 16, 4]
    )
    fuse = randomize(fuse).double()
    target = torch.randn(2, 12, 9, 11, dtype=torch.float64)
    coarse = torch.randn(2, 6, 5, 6, dtype=torch.float64)
    fine = torch.randn(2, 5, 17, 21, dtype=torch.float64)

    m = conv(fuse.align[0], target) + nearest(conv(fuse.align[1], coarse), (9, 11))
    m = m + F.max_pool2d(conv(fuse.align[2], fine), 2, ceil_mode=True)
    h = unit_reference("residual", fuse.deepen.units[0], m) if depth else m
    expected = target + fuse.scale * conv(fuse.project[1], h.clamp(min=0))
    torch.testing.assert_close(fuse(target, [coarse, fine]), expected, rtol=0, atol=1e-11)


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


def test_inputs_are_left_as_they_were():
    fuse = randomize(DeepFuse([16, 16], 16, merge="gated", depth=2))
    target, source = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 4, 4)
    before = target.clone(), source.clone()
    fuse(target, [source])
    assert torch.equal(target, before[0])
    assert torch.equal(source, before[1])


FINER_AND_COARSER = {"in_channels": [16, 16, 16], "out_channels": 16, "strides": [8, 4, 16]}


def maps(batch=1, rows=9, columns=11):
    """A target, then a source of half its stride and one of twice its stride."""
    sizes = [(rows, columns), (2 * rows - 1, 2 * columns - 1), (-(-rows // 2), -(-columns // 2))]
    target, *sources = (torch.randn(batch, 16, *size) for size in sizes)
    return target, sources


# (merge, unit, depth, upsample, downsample, skip, norm)
FAMILY = [
    (*choices, norm)
    for choices in itertools.product(
        MERGES, UNITS, (0, 1), UPSAMPLES, DOWNSAMPLES, ("merged", "target")
    )
    for norm in (("", "BN") if choices[3:] == ("nearest", "conv", "merged") else ("",))
]


def member(merge, unit, depth, upsample, downsample, skip, norm, **arguments):
    return DeepFuse(
        **FINER_AND_COARSER, merge=merge, unit=unit, depth=depth, upsample=upsample,
        downsample=downsample, skip=skip, norm=norm if depth else "", align=True, align_norm=norm,
        drop_path=0.5 if depth or skip == "target" else 0.0, **arguments,
    )  # fmt: skip


@pytest.mark.parametrize("merge", MERGES)
def test_every_combination_builds_and_gives_every_parameter_a_gradient(merge):
    target, sources = maps(batch=8, rows=4, columns=4)
    for choices in FAMILY:
        if choices[0] != merge:
            continue
        # half of the samples lose the deep branch; the other half teach it
        fuse = member(*choices, zero_init=False).train()
        fused = fuse(target, sources)
        assert fused.shape == target.shape, choices
        (fused * torch.randn_like(fused)).mean().backward()
        for name, parameter in fuse.named_parameters():
            assert parameter.grad is not None, (choices, name)
            assert torch.isfinite(parameter.grad).all(), (choices, name)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("unit", UNITS)
def test_every_combination_compiles_to_torchscript(unit):
    # resampling and skip go with every merge, not with every pair of merge and unit
    choices = list(itertools.product(MERGES, ((0, "merged"), (1, "target"))))
    resampling = itertools.cycle(itertools.product(UPSAMPLES, DOWNSAMPLES))
    for (merge, (depth, skip)), (upsample, downsample) in zip(choices, resampling, strict=False):
        chosen = (merge, unit, depth, upsample, downsample, skip, "BN")
        fuse = randomize(member(*chosen)).eval()
        scripted = torch.jit.script(fuse)
        for size in ((9, 11), (6, 4)):
            target, sources = maps(2, *size)
            torch.testing.assert_close(
                scripted(target, sources), fuse(target, sources), msg=str(chosen)
            )


@pytest.mark.parametrize(
    "choices",
    [
        *((merge, "bottleneck", 1, "nearest", "conv", "target", "BN") for merge in MERGES),
        *(("sum", unit, 2, "bilinear", "avg_pool", "merged", "BN") for unit in UNITS),
        *(("sum", "residual", 0, up, down, "target", "") for up, down in
          zip(["nearest", "bilinear", "nearest"], DOWNSAMPLES, strict=True)),
    ],
)  # fmt: skip
def test_torch_export_gives_the_same_map(choices):
    fuse = randomize(member(*choices)).eval()
    target, sources = maps()
    exported = torch.export.export(fuse, (target, sources)).module()
    torch.testing.assert_close(exported(target, sources), fuse(target, sources))


def test_autocast_keeps_the_type_of_the_maps():
    fuse = DeepFuse([16, 16], 16, merge="weighted_sum", unit="bottleneck", zero_init=False)
    x = torch.randn(1, 16, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert fuse(x, [x]).dtype == torch.bfloat16


def test_every_unit_starts_with_an_output_of_the_size_of_its_input():
    for name, unit in UNITS.items():
        found = unit(64, "")(torch.randn(4, 64, 16, 16))
        assert 0.3 < found.std() < 3, name


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_norms_take_the_place_of_biases(norm):
    fuse = DeepFuse(
        [32, 32], 32, unit="residual", norm=norm, align=True, align_norm=norm,
        strides=[8, 4], downsample="conv", skip="target", width=64,
    )  # fmt: skip
    names = {name for name, _ in fuse.named_parameters()}
    for convolution in ("deepen.units.0.conv1", "align.0", "resample.0.down.convs.0", "project.1"):
        assert f"{convolution}.norm.weight" in names
        assert f"{convolution}.bias" not in names


def test_the_norm_of_the_units_and_that_of_the_aligning_convolutions_are_independent():
    def normalised(**norms):
        fuse = DeepFuse([32, 32], 32, unit="residual", align=True, **norms)
        return {name.split(".")[0] for name, _ in fuse.named_parameters() if "norm" in name}

    assert normalised() == set()
    assert normalised(norm="BN") == {"deepen"}
    assert normalised(align_norm="BN") == {"align"}
    assert normalised(norm="BN", align_norm="GN") == {"deepen", "align"}


def test_a_number_of_sources_other_than_declared_is_an_error():
    x = torch.randn(1, 16, 4, 4)
    with pytest.raises(ValueError, match="takes 1 source maps; 2 were given"):
        DeepFuse([16, 16], 16)(x, [x, x])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"merge": "mean"}, r'merge "mean" is unknown; choose one of \[.sum.'),
        ({"unit": "wide"}, r'unit "wide" is unknown; choose one of \[.residual.'),
        ({"depth": -1}, "depth is -1; it must be 0 or more"),
        ({"drop_path": 1.0}, r"drop_path is 1.0; it must be in \[0, 1\)"),
        ({"skip": "none"}, 'skip "none" is unknown; choose one of'),
        ({"norm": "XN", "depth": 1}, 'norm "XN" is unknown; choose one of ""'),
        ({"norm": "GN", "unit": "residual"}, "16 channels do not divide"),
        ({"in_channels": [16, 8]}, "without alignment; pass align=True"),
        ({"in_channels": [8, 8], "align": True, "skip": "target"}, "must equal out_channels"),
        (
            {"in_channels": [6, 6], "out_channels": 6, "unit": "bottleneck"},
            "bottleneck unit divides its channels by 4.*multiple of 4, or the unit 'residual'",
        ),
        (
            {"in_channels": [12, 12], "out_channels": 12, "unit": "multi_scale"},
            "multi_scale unit divides its channels by 8; 12 channels do not divide",
        ),
        (
            {"in_channels": [12, 12], "out_channels": 12, "unit": "dense"},
            "dense unit divides its channels by 8; 12 channels do not divide",
        ),
        ({"upsample": "cubic"}, r'upsample "cubic" is unknown; choose one of \[.nearest'),
        ({"downsample": "cubic"}, r'downsample "cubic" is unknown; choose one of \[.max_pool'),
        ({"unit": "wide", "depth": 0}, 'unit "wide" is unknown'),
        ({"depth": 0, "drop_path": 0.1}, "drop_path is 0.1 .MODEL.DEEPFUSE.DROP_PATH., but simple"),
        ({"depth": 0, "norm": "BN"}, 'norm "BN" .MODEL.DEEPFUSE.NORM. normalises inside the units'),
        ({"align_norm": "BN"}, 'align_norm "BN" has nothing to normalise'),
        (
            {"align_norm": "BN", "strides": [8, 4], "downsample": "max_pool"},
            'align_norm "BN" has nothing to normalise',
        ),
        ({"align_norm": "XN", "align": True}, 'norm "XN" is unknown'),
        ({"in_channels": [16]}, "a target alone has nothing to be fused with"),
        ({"strides": [8]}, "1 strides for 2 maps"),
        ({"strides": [12, 4]}, "the ratio must be a power of two"),
        ({"width": 0, "align": True, "skip": "target"}, "width is 0; it must be 1 or more"),
        ({"width": 8, "skip": "target"}, "cannot be fused to 8 without alignment"),
        ({"width": 8, "align": True}, "width of 8 channels must equal out_channels, which are 16"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepFuse(**{"in_channels": [16, 16], "out_channels": 16, **arguments})
