"""The DeepFuse operation against its formula, its starting points and its errors."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from deepfuse_d2.layers import (
    DOWNSAMPLES,
    MERGES,
    UNITS,
    UPSAMPLES,
    Carafe,
    DeepFuse,
    FlowAlignment,
    FuseSettings,
)
from deepfuse_d2.layers.alignment import warp

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
    if name == "channel_gated":
        weighed = [xs[0]]
        for (first, _, second), x in zip(merge.excitations, xs[1:], strict=True):
            means = torch.cat([xs[0].mean((2, 3)), x.mean((2, 3))], dim=1)
            hidden = (means @ first.weight[:, :, 0, 0].T + first.bias).clamp(min=0)
            logits = hidden @ second.weight[:, :, 0, 0].T + second.bias
            weighed.append(2 / (1 + torch.exp(-logits))[:, :, None, None] * x)
        return merge_reference("gated", merge.positions, weighed)
    if name == "attention":
        out = torch.zeros_like(xs[0])
        for n, i, j in itertools.product(*map(range, (len(out), *out.shape[2:]))):
            seen = [
                (layer.weight[:, :, 0, 0] @ x[n, :, i, j] + layer.bias).clamp(min=0)
                for layer, x in zip(merge.compress, xs, strict=True)
            ]
            logits = merge.logits.weight[:, :, 0, 0] @ torch.cat(seen) + merge.logits.bias
            weights = logits.exp() / logits.exp().sum() * len(xs)
            out[n, :, i, j] = sum(w * x[n, :, i, j] for w, x in zip(weights, xs, strict=True))
        return out
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


@pytest.mark.parametrize(
    ("ratio", "size"), [(2, (6, 8)), (2, (5, 7)), (2, (7, 9)), (4, (11, 14)), (3, (9, 12))]
)
@torch.no_grad()
def test_carafe_is_its_formula_in_float64(ratio, size):
    layer = randomize(Carafe(6, ratio, start_as_nearest=False, compressed=4)).double()
    layer.scale.fill_(1.0)
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    encoded = conv(layer.encode, conv(layer.compress, x))
    k, (rows, columns) = 5, size
    expected = torch.zeros(2, 6, rows, columns, dtype=torch.float64)
    for n, i, j in itertools.product(range(2), range(rows), range(columns)):
        # beyond the last whole cell, the last position goes on
        i_in, j_in = min(i, 3 * ratio - 1), min(j, 4 * ratio - 1)
        cell = (i_in // ratio, j_in // ratio)
        place = i_in % ratio * ratio + j_in % ratio
        logits = encoded[n, place :: ratio * ratio, cell[0], cell[1]]
        weights = logits.exp() / logits.exp().sum()
        for a, b in itertools.product(range(k), repeat=2):
            row, column = cell[0] + a - k // 2, cell[1] + b - k // 2
            if 0 <= row < 3 and 0 <= column < 4:
                expected[n, :, i, j] += weights[a * k + b] * x[n, :, row, column]
    torch.testing.assert_close(layer(x, size), expected, rtol=0, atol=1e-11)


def test_carafe_has_the_published_parameters():
    # 256 channels, doubled: 1x1 to 64, 3x3 to 4 * 25, less our scale
    count = sum(p.numel() for n, p in Carafe(256, 2).named_parameters() if n != "scale")
    assert count == 256 * 64 + 64 + 9 * 64 * 100 + 100


@torch.no_grad()
def test_a_flow_moves_the_source_by_its_formula_in_float64():
    layer = randomize(FlowAlignment(4, start_as_given=False)).double()
    layer.scale.fill_(1.0)
    target, source = torch.randn(2, 2, 4, 6, 7, dtype=torch.float64)
    flow = conv(layer.flow, torch.cat([conv(layer.target, target), conv(layer.source, source)], 1))
    expected = torch.zeros_like(source)
    for n, i, j in itertools.product(range(2), range(6), range(7)):
        y = (i + flow[n, 1, i, j]).clamp(0, 5)
        x = (j + flow[n, 0, i, j]).clamp(0, 6)
        for row, column in itertools.product((int(y), int(y) + 1), (int(x), int(x) + 1)):
            share = max(1 - abs(y - row), 0) * max(1 - abs(x - column), 0)
            if share:
                expected[n, :, i, j] += share * source[n, :, row, column]
    torch.testing.assert_close(layer(target, source), expected, rtol=0, atol=1e-11)


def test_a_constant_flow_shifts_a_map():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    flow = torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 3, 4)
    expected = torch.tensor([[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]]).float()
    torch.testing.assert_close(warp(x, flow)[0, 0], expected)


LEARNED = {"carafe": {"upsample": "carafe"}, "flow": {"alignment": "flow"},
           "both": {"upsample": "carafe", "alignment": "flow"}}  # fmt: skip


@pytest.mark.parametrize("choices", LEARNED.values(), ids=LEARNED)
@pytest.mark.parametrize(("size", "coarse"), [((8, 8), (4, 4)), ((9, 13), (5, 7))])
def test_learned_resampling_starts_as_the_nearest_bit_for_bit_and_learns(choices, size, coarse):
    fuse = DeepFuse([16, 16], 16, strides=[4, 8], depth=0, merge="sum", **choices)
    target, source = torch.randn(2, 16, *size), torch.randn(2, 16, *coarse)
    assert torch.equal(fuse(target, [source]), target + nearest(source, size))
    optimizer = torch.optim.SGD(fuse.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        fuse(target, [source]).square().mean().backward()
        optimizer.step()
    for name, parameter in fuse.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


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


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("choices", LEARNED.values(), ids=LEARNED)
def test_learned_resampling_is_exported_for_other_sizes_and_keeps_the_type_of_the_maps(choices):
    fuse = randomize(DeepFuse(**FINER_AND_COARSER, align=True, depth=0, skip="target", **choices))
    rows, columns = (torch.export.Dim(name, min=4, max=64) for name in ("rows", "columns"))
    ours = {2: 2 * rows, 3: 2 * columns}
    fine, coarse = {2: 4 * rows, 3: 4 * columns}, {2: rows, 3: columns}
    given = [torch.randn(1, 16, side, side) for side in (16, 32, 8)]
    exported = torch.export.export(
        fuse, (given[0], given[1:]), dynamic_shapes=(ours, [fine, coarse])
    ).module()
    target, *sources = (torch.randn(1, 16, side, side + side // 2) for side in (12, 24, 6))
    expected = fuse(target, sources)
    torch.testing.assert_close(exported(target, sources), expected)
    torch.testing.assert_close(torch.jit.script(fuse)(target, sources), expected)
    with torch.autocast("cpu", torch.bfloat16):
        low = fuse(target.bfloat16(), [x.bfloat16() for x in sources])
    assert low.dtype == torch.bfloat16
    assert low.isfinite().all()


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
        ({"alignment": "warp"}, r"alignment \"warp\" is unknown; choose one of \['', 'flow'"),
        ({"strides": [2, 3], "upsample": "carafe"}, r'stride 3 cannot be enlarged.*"carafe"'),
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
