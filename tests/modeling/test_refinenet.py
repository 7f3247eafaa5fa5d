"""The suite of RefineNetHead in its forms, and the invariants and counts that prove its blocks."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec
from sem_seg_head_suite import (
    SHAPES,
    SemSegHeadSuite,
    build_head,
    count,
    random_features,
    randomize,
    resnet_shapes,
)
from torch import nn

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.layers import (
    MERGES,
    UNITS,
    ChainedResidualPooling,
    MultiResolutionFusion,
    ResidualConvUnit,
)
from deepfuse_d2.modeling.sem_seg import RefineNetHead

NAME = ("MODEL.SEM_SEG_HEAD.NAME", "RefineNetHead")
HALF = {
    f"half_{name}": ShapeSpec(channels=shape.channels, stride=2 * shape.stride)
    for name, shape in SHAPES.items()
}


class TestRefineNet(SemSegHeadSuite):
    overrides = NAME
    is_random_in_training = True


class TestSingleRefineNet(SemSegHeadSuite):
    overrides = (*NAME, "MODEL.REFINENET.CASCADE", "single", "MODEL.REFINENET.POOL_BLOCKS", 2)
    is_random_in_training = True


class Test2CascadedRefineNet(SemSegHeadSuite):
    overrides = (
        *NAME, "MODEL.REFINENET.CASCADE", "2_cascaded", "MODEL.REFINENET.POOL_ORDER", "conv_pool",
    )  # fmt: skip
    is_random_in_training = True


class Test2ScaleRefineNet(SemSegHeadSuite):
    shapes = SHAPES | {name: HALF[name] for name in ("half_res3", "half_res4", "half_res5")}
    overrides = (
        *NAME, "MODEL.REFINENET.CASCADE", "2_scale", "MODEL.SEM_SEG_HEAD.IN_FEATURES",
        list(shapes),
    )  # fmt: skip
    is_random_in_training = True


class TestLightWeightRefineNet(SemSegHeadSuite):
    overrides = (*NAME, "MODEL.REFINENET.LIGHT_WEIGHT", True, "MODEL.REFINENET.ALIGN_CORNERS", True)


class TestRefineNetFusedByDeepFuse(SemSegHeadSuite):
    overrides = (
        *NAME, "DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.FUSE", "deepfuse", "MODEL.DEEPFUSE.MERGE", "gated",
        "MODEL.DEEPFUSE.DEPTH", 2,
    )  # fmt: skip
    is_random_in_training = True


# ---------------------------------------------------------------- residual convolution unit


def test_the_residual_unit_equals_its_formula():
    unit = randomize(ResidualConvUnit(4)).double()
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    inner = F.conv2d(x.clamp(min=0), unit.conv1.weight, unit.conv1.bias, padding=1)
    expected = x + F.conv2d(inner.clamp(min=0), unit.conv2.weight, padding=1)
    torch.testing.assert_close(unit(x), expected, rtol=0, atol=1e-12)


def test_a_residual_unit_without_its_second_convolution_is_the_identity_for_negative_values_too():
    unit = ResidualConvUnit(4)
    nn.init.zeros_(unit.conv2.weight)
    x = torch.randn(2, 4, 7, 8)
    kept = x.clone()
    assert torch.equal(unit(x), kept)
    assert torch.equal(x, kept), "the shortcut was rectified in place"


# ---------------------------------------------------------------- chained residual pooling


def max_pool_by_loops(x, side):
    """The maximum of the side x side positions around each, inside the map."""
    result, r = torch.empty_like(x), side // 2
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            window = x[:, :, max(i - r, 0) : i + r + 1, max(j - r, 0) : j + r + 1]
            result[:, :, i, j] = window.amax((2, 3))
    return result


@pytest.mark.parametrize("order", ["pool_conv", "conv_pool"])
@pytest.mark.parametrize("num_blocks", [2, 4])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_chained_pooling_equals_its_formula(order, num_blocks, kernel_size):
    crp = ChainedResidualPooling(3, num_blocks, order=order, kernel_size=kernel_size)
    crp = randomize(crp).double()
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    rectified = x.clamp(min=0)
    expected, path = rectified.clone(), rectified
    for conv in crp.convs:
        if order == "pool_conv":
            path = F.conv2d(max_pool_by_loops(path, 5), conv.weight, padding=kernel_size // 2)
        else:
            path = max_pool_by_loops(F.conv2d(path, conv.weight, padding=kernel_size // 2), 5)
        expected += path
    torch.testing.assert_close(crp(x), expected, rtol=0, atol=1e-11)


def test_chained_pooling_without_weights_is_the_rectified_input():
    crp = ChainedResidualPooling(3)
    for conv in crp.convs:
        nn.init.zeros_(conv.weight)
    x = torch.randn(2, 3, 9, 8)
    assert torch.equal(crp(x), x.clamp(min=0))


def test_chained_pooling_with_identities_sums_growing_maxima_in_both_orders():
    x = torch.randn(1, 3, 21, 19)
    r = x.clamp(min=0)
    expected = r + sum(max_pool_by_loops(r, side) for side in (5, 9, 13, 17))
    for order in ("pool_conv", "conv_pool"):
        crp = ChainedResidualPooling(3, 4, order=order, kernel_size=1)
        for conv in crp.convs:
            conv.weight.data.copy_(torch.eye(3)[:, :, None, None])
        torch.testing.assert_close(crp(x), expected)


def test_the_orders_of_chained_pooling_differ_and_both_scale_with_positive_factors():
    first = randomize(ChainedResidualPooling(3, order="pool_conv"))
    second = ChainedResidualPooling(3, order="conv_pool")
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, 12, 12)
    assert not torch.allclose(first(x), second(x), rtol=1e-2)
    for crp in (first, second):
        torch.testing.assert_close(crp(3 * x), 3 * crp(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "side"),
    [
        (lambda: ResidualConvUnit(1), 5),
        (lambda: nn.Sequential(*(ResidualConvUnit(1) for _ in range(3))), 13),
        (lambda: ChainedResidualPooling(1, 2), 13),
        (lambda: ChainedResidualPooling(1, 3), 19),
        (lambda: ChainedResidualPooling(1, 4), 25),
        (lambda: ChainedResidualPooling(1, 4, kernel_size=1), 17),
    ],
)
def test_a_block_sees_as_far_as_the_fact_sheet_says(make, side):
    block = make().double()
    for parameter in block.parameters():
        nn.init.uniform_(parameter, 0.1, 1)
    x = torch.ones(1, 1, 41, 41, dtype=torch.float64)
    changed = x.clone()
    changed[0, 0, 20, 20] = 5  # above all others, so that every maximum notices it
    reached = (block(changed) != block(x))[0, 0]
    expected = torch.zeros(41, 41, dtype=torch.bool)
    expected[20 - side // 2 : 21 + side // 2, 20 - side // 2 : 21 + side // 2] = True
    assert torch.equal(reached, expected)


# ---------------------------------------------------------------- multi-resolution fusion


@pytest.mark.parametrize("align_corners", [False, True])
def test_fusion_convolves_then_resizes_to_the_largest_then_sums(align_corners):
    fusion = randomize(MultiResolutionFusion([6, 4, 5], align_corners=align_corners)).double()
    paths = [
        torch.randn(2, channels, *size, dtype=torch.float64)
        for channels, size in ((6, (5, 7)), (4, (9, 13)), (5, (3, 4)))
    ]
    expected = torch.zeros(2, 4, 9, 13, dtype=torch.float64)
    for conv, path in zip(fusion.convs, paths, strict=True):
        convolved = F.conv2d(path, conv.weight, padding=1)
        expected += F.interpolate(
            convolved, size=(9, 13), mode="bilinear", align_corners=align_corners
        )
    torch.testing.assert_close(fusion(paths), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("kernel_size", "commutes"), [(1, True), (3, False)])
def test_convolving_after_the_resize_would_differ_for_3x3_but_not_for_1x1(kernel_size, commutes):
    fusion = randomize(MultiResolutionFusion([3, 3], kernel_size=kernel_size)).double()
    small = torch.randn(1, 3, 5, 6, dtype=torch.float64)
    large = torch.randn(1, 3, 10, 12, dtype=torch.float64)
    resized = F.interpolate(small, size=(10, 12), mode="bilinear", align_corners=False)
    after = fusion.convs[0](large) + fusion.convs[1](resized)
    assert torch.allclose(fusion([large, small]), after) == commutes


def test_fusion_of_maps_of_one_size_is_a_sum_of_convolutions():
    fusion = randomize(MultiResolutionFusion([3, 3]))
    a, b = torch.randn(2, 1, 3, 5, 5)
    assert torch.equal(fusion([a, b]), fusion.convs[0](a) + fusion.convs[1](b))


# ---------------------------------------------------------------- counts


def full_size(**arguments):
    with torch.device("meta"):
        return RefineNetHead(resnet_shapes(), num_classes=21, **arguments)


@pytest.mark.parametrize(
    ("num_classes", "parameters"),
    [(21, 75_552_277), (19, 75_547_667), (40, 75_596_072), (60, 75_642_172), (150, 75_849_622),
     (7, 75_520_007)],
)  # fmt: skip
def test_the_4_cascade_has_the_published_parameters(num_classes, parameters):
    with torch.device("meta"):
        head = RefineNetHead(resnet_shapes(), num_classes=num_classes)
    assert count(head) == parameters
    assert count(head) - count(head.classifier) == 75_503_872
    assert len(list(head.parameters())) == 88


def test_each_block_of_the_4_cascade_has_the_expected_parameters():
    head = full_size()
    found = [
        count(block) + count(head.paths[name])
        for block, name in zip(head.blocks, ("res5", "res4", "res3", "res2"), strict=True)
    ]
    assert found == [42_469_888, 12_387_584, 10_618_112, 10_028_288]
    assert [count(b.pooling.convs[0]) for b in head.blocks] == [2_359_296, *[589_824] * 3]
    assert [count(b.output[0]) for b in head.blocks] == [4_719_104, *[1_179_904] * 3]
    assert head.blocks[0].fusion is None, "a single path has nothing to fuse"


def test_two_pooling_blocks_make_the_papers_text():
    assert count(full_size(pool_blocks=2)) == 67_294_741


def test_the_4_cascade_has_the_layers_of_the_authors_graph():
    modules = list(full_size().modules())
    assert sum(isinstance(m, Conv2d) for m in modules) == 66 + 1
    assert sum(isinstance(m, ResidualConvUnit) for m in modules) == 20
    chains = [m for m in modules if isinstance(m, ChainedResidualPooling)]
    assert sum(len(chain.convs) for chain in chains) == 16
    fusions = sum(isinstance(m, MultiResolutionFusion) for m in modules)
    assert len(chains) + fusions == 7
    # two rectifications a unit, one a chain
    assert 2 * 20 + len(chains) == 44


@pytest.mark.parametrize(
    ("cascade", "parameters", "halves"),
    [
        ("single", 38_980_117, ()),
        ("2_cascaded", 45_468_949, ()),
        ("2_scale", 87_939_861, (3, 4, 5)),
        ("2_scale_paired", 112_123_925, (2, 3, 4, 5)),
    ],
)
def test_the_other_cascades_have_the_expected_parameters(cascade, parameters, halves):
    shapes = resnet_shapes()
    shapes |= {f"half_res{i}": ShapeSpec(channels=64 * 2**i, stride=2 ** (i + 1)) for i in halves}
    with torch.device("meta"):
        assert count(RefineNetHead(shapes, num_classes=21, cascade=cascade)) == parameters


def test_the_light_weight_head_has_the_published_parameters():
    head = full_size(light_weight=True)
    assert count(head) == 3_849_493
    assert count(head) - count(head.classifier) == 3_801_088
    assert len(list(head.parameters())) == 28


@pytest.mark.parametrize(
    "head", [full_size(), full_size(pool_blocks=2), full_size(light_weight=True)]
)
def test_only_the_first_convolutions_of_units_and_the_classifier_have_biases(head):
    biased = {name for name, _ in head.named_parameters() if name.endswith("bias")}
    assert all(name == "classifier.bias" or ".conv1.bias" in name for name in biased)


# ---------------------------------------------------------------- the head


def reference(head, features):
    """The 4-cascade, written out; fine maps are not a multiple of coarse ones."""
    a5, a4, a3, a2 = (head.paths[f"res{i}"](features[f"res{i}"]) for i in (5, 4, 3, 2))
    b4, b3, b2, b1 = head.blocks

    def meet(block, fine, coarse):
        convolved = block.fusion.convs[1](coarse)
        resized = F.interpolate(
            convolved, size=fine.shape[-2:], mode="bilinear", align_corners=False
        )
        return block.output(block.pooling(block.fusion.convs[0](fine) + resized))

    o4 = b4.output(b4.pooling(a5))
    o3 = meet(b3, a4, o4)
    o2 = meet(b2, a3, o3)
    o1 = meet(b1, a2, o2)
    return head.classifier(o1)


def test_the_head_is_the_papers_cascade():
    head = randomize(build_head(*NAME)).double().eval()
    features = random_features((70, 101), dtype=torch.float64)
    torch.testing.assert_close(head(features)["sem_seg"], reference(head, features))


def test_the_wide_path_keeps_its_width_up_to_the_first_fusion():
    head = build_head(*NAME)
    assert [block.out_channels for block in head.blocks] == [12, 8, 8, 8]
    assert build_head(*NAME, "MODEL.REFINENET.CASCADE", "single").blocks[0].out_channels == 8


def test_dropout_is_on_wide_features_and_before_the_classifier():
    head = full_size()
    dropped = {name: path[0].p for name, path in head.paths.items()}
    assert dropped == {"res5": 0.5, "res4": 0.5, "res3": 0.0, "res2": 0.0}
    assert head.dropout.p == 0.5
    assert full_size(light_weight=True).dropout.p == 0


@pytest.mark.parametrize("size", [(224, 224), (625, 468), (400, 400)])
def test_scores_have_the_size_of_the_finest_feature_whatever_the_image(size):
    head = build_head(*NAME).eval()
    expected = tuple(-(-side // 4) for side in size)
    with torch.no_grad():
        found = head(random_features(size, batch=1))["sem_seg"].shape[-2:]
    assert found == expected
    assert expected in ((56, 56), (157, 117), (100, 100))


def test_the_gaussian_start_has_the_authors_deviation():
    head = RefineNetHead(SHAPES, num_classes=3, widths=(64, 64))
    weights = torch.cat([p.flatten() for p in head.parameters() if p.ndim == 4])
    biases = [p for p in head.parameters() if p.ndim == 1]
    assert weights.std().item() == pytest.approx(0.01, rel=0.02)
    assert all(torch.count_nonzero(bias) == 0 for bias in biases)


def test_the_other_start_leaves_the_signal_as_it_is_through_narrow_blocks():
    head = RefineNetHead(SHAPES, num_classes=3, widths=(64, 64), init="identity").eval()
    with torch.no_grad():
        deviation = {}
        for name, path in head.paths.items():
            deviation[name] = path(torch.randn(1, SHAPES[name].channels, 16, 16)).std().item()
        block = head.blocks[0]
        x = torch.randn(1, 64, 16, 16)
        refined = block.output(block.pooling(x))
    assert all(0.5 < value < 1.5 for value in deviation.values()), deviation
    assert refined.std() < 2 * x.clamp(min=0).std()


def test_features_of_one_stride_share_a_block():
    shapes = SHAPES | {"res5_1": ShapeSpec(channels=10, stride=32)}
    head = RefineNetHead(shapes, num_classes=3, widths=(8, 8), fuse_conv_on_features=False)
    assert sorted(head.groups[0]) == ["res5", "res5_1"]
    assert count(head.blocks[0].fusion) == 0
    # the path from the block before has the only convolution of a fusion
    assert [type(conv) for conv in head.blocks[1].fusion.convs] == [nn.Identity, Conv2d]


# ---------------------------------------------------------------- DeepFuse in place of sums


@pytest.mark.parametrize(
    ("merge", "unit"), [*((m, "bottleneck") for m in MERGES), *(("gated", u) for u in UNITS)]
)
def test_fused_by_deepfuse_it_starts_as_the_plain_sum_bit_for_bit(merge, unit):
    plain = randomize(build_head(*NAME)).eval()
    ours = build_head(
        *NAME, "DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.FUSE", "deepfuse", "MODEL.DEEPFUSE.MERGE", merge,
        "MODEL.DEEPFUSE.UNIT", unit,
    ).eval()  # fmt: skip
    missing, unexpected = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(".fusion.fuse." in name for name in missing)
    features = random_features((70, 101))
    expected, found = plain(features)["sem_seg"], ours(features)["sem_seg"]
    assert torch.equal(found, expected)
    # and leaves it with the first step
    added = [p for name, p in ours.named_parameters() if ".fuse." in name]
    optimizer = torch.optim.SGD(added, lr=0.1)
    found.square().mean().backward()
    optimizer.step()
    assert not torch.equal(ours(features)["sem_seg"], expected)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("MODEL.REFINENET.CASCADE", "3_cascaded"), r'"3_cascaded" is unknown.*"?single.*2_scale'),
        (("MODEL.REFINENET.CASCADE", "2_scale"), r"joins up to 4 strides and 3 of half scale"),
        (("MODEL.REFINENET.POOL_ORDER", "pool"), r'order "pool".*"pool_conv" or "conv_pool"'),
        (("MODEL.REFINENET.POOL_BLOCKS", -1), r"has -1 blocks.*0 or more"),
        (("MODEL.REFINENET.WIDTHS", [512]), r"WIDTHS is \[512\]; it has two entries"),
        (("MODEL.REFINENET.DROPOUT", 1.0), r"DROPOUT is 1.0; it must be in \[0, 1\)"),
        (
            ("MODEL.REFINENET.INIT", "he"),
            r'INIT = "he" is unknown; choose "gaussian" or "identity"',
        ),
        (("MODEL.REFINENET.ACTIVATION", "gelu"), r'ACTIVATION = "gelu" is unknown.*relu6'),
        (
            ("DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.FUSE", "concat"),
            r'FUSE = "concat" is unknown.*"sum" or "deepfuse"',
        ),
    ],
)
def test_a_mistake_is_answered_with_what_is_allowed(pairs, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_head(*NAME, *pairs)
    if "POOL" not in pairs[0]:
        assert isinstance(caught.value, ConfigError)
