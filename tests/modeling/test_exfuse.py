"""The suite of ExFuseHead, its switches, and the invariants that prove its blocks.

Densely adjacent prediction is checked against loops over its formula: an implementation by
PixelShuffle and an average pooling, common in public code, must fail here.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from sem_seg_head_suite import (
    NUM_CLASSES,
    SHAPES,
    SemSegHeadSuite,
    build_head,
    count,
    random_features,
    randomize,
    resnet_shapes,
)

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.layers import (
    DenselyAdjacentPrediction,
    SemanticEmbeddingBranch,
    SubPixelUpsample,
    Upsample2x,
)
from deepfuse_d2.modeling.sem_seg import ExFuseHead

NAME = ("MODEL.SEM_SEG_HEAD.NAME", "ExFuseHead")
PARTS = {
    "seb": ("MODEL.EXFUSE.SEMANTIC_EMBEDDING", True, False),
    "sub_pixel": ("MODEL.EXFUSE.SUB_PIXEL", True, False),
    "supervision": ("MODEL.EXFUSE.SUPERVISE_FIRST", True, False),
    "dap": ("MODEL.EXFUSE.DAP_SIZE", 3, 1),
}


def switches(*on):
    """Config pairs that switch on these parts and no other."""
    return tuple(
        itertools.chain.from_iterable(
            (key, yes if part in on else no) for part, (key, yes, no) in PARTS.items()
        )
    )


class TestExFuseHead(SemSegHeadSuite):
    overrides = (*NAME, "MODEL.EXFUSE.MULTI_LABEL_WEIGHT", 0.1)
    stride = 1
    auxiliary = {"ecre": 16} | {f"classes_{name}": None for name in SHAPES}


class TestCheapExFuseHead(SemSegHeadSuite):
    overrides = (
        *NAME, "MODEL.GCN.OUTPUT_STRIDE", 4, "MODEL.EXFUSE.SUB_PIXEL", False,
        "MODEL.EXFUSE.SUPERVISE_FIRST", False, "MODEL.EXFUSE.DAP_DIVIDE_BY_VALID", True,
    )  # fmt: skip


# ---------------------------------------------------------------- densely adjacent prediction


def dap_by_loops(x, k, divide_by_valid=False):
    """The formula of the paper, one number at a time."""
    n, channels, height, width = x.shape
    classes, r = channels // k**2, k // 2
    result = torch.zeros(n, classes, height, width, dtype=x.dtype)
    for b, c, i, j in itertools.product(range(n), range(classes), range(height), range(width)):
        total, valid = 0.0, 0
        for m, p in itertools.product(range(k), range(k)):
            row, column = i + m - r, j + p - r
            if 0 <= row < height and 0 <= column < width:
                total += x[b, (m * k + p) * classes + c, row, column]
                valid += 1
        result[b, c, i, j] = total / (valid if divide_by_valid else k**2)
    return result


@pytest.mark.parametrize("divide_by_valid", [False, True])
@pytest.mark.parametrize(("k", "classes"), [(1, 3), (3, 2), (5, 2)])
def test_dap_equals_its_formula_in_float64(k, classes, divide_by_valid):
    x = torch.randn(2, classes * k**2, 6, 7, dtype=torch.float64)
    found = DenselyAdjacentPrediction(k, divide_by_valid)(x)
    expected = dap_by_loops(x, k, divide_by_valid)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_dap_is_a_fixed_convolution_without_parameters():
    k, classes = 3, 4
    kernel = torch.zeros(classes, classes * k**2, k, k, dtype=torch.float64)
    for c, m, p in itertools.product(range(classes), range(k), range(k)):
        kernel[c, (m * k + p) * classes + c, m, p] = 1 / k**2
    x = torch.randn(2, classes * k**2, 8, 9, dtype=torch.float64)
    dap = DenselyAdjacentPrediction(k)
    torch.testing.assert_close(dap(x), F.conv2d(x, kernel, padding=1), rtol=0, atol=1e-14)
    assert count(dap) == 0


def test_dap_is_linear():
    x, y = torch.randn(2, 1, 18, 6, 6, dtype=torch.float64)
    dap = DenselyAdjacentPrediction(3)
    torch.testing.assert_close(dap(2 * x - 3 * y), 2 * dap(x) - 3 * dap(y))


def test_dap_of_size_1_is_the_identity():
    x = torch.randn(2, 5, 6, 7)
    assert torch.equal(DenselyAdjacentPrediction(1)(x), x)


def test_dap_of_ones_counts_the_neighbours_inside_the_map():
    ones = torch.ones(1, 18, 5, 6)
    votes = DenselyAdjacentPrediction(3)(ones)[0, 0]
    torch.testing.assert_close(votes[1:-1, 1:-1], torch.ones(3, 4))
    torch.testing.assert_close(votes[0, 1:-1], torch.full((4,), 6 / 9))
    torch.testing.assert_close(votes[1:-1, -1], torch.full((3,), 6 / 9))
    torch.testing.assert_close(votes[[0, 0, -1, -1], [0, -1, 0, -1]], torch.full((4,), 4 / 9))
    by_valid = DenselyAdjacentPrediction(3, divide_by_valid=True)(ones)
    torch.testing.assert_close(by_valid, torch.ones(1, 2, 5, 6))


@pytest.mark.parametrize(
    ("group", "target"), [((0, 0), (4, 4)), ((1, 1), (3, 3)), ((2, 2), (2, 2)), ((0, 2), (4, 2))]
)
def test_a_vote_lands_on_the_neighbour_it_is_for(group, target):
    classes, c = 3, 1
    x = torch.zeros(1, 9 * classes, 7, 7)
    x[0, (group[0] * 3 + group[1]) * classes + c, 3, 3] = 1
    found = DenselyAdjacentPrediction(3)(x)
    assert found[(0, c, *target)] == pytest.approx(1 / 9)
    assert torch.count_nonzero(found) == 1


def test_dap_of_equal_groups_is_an_average_pooling():
    x = torch.randn(2, 4, 6, 7)
    expected = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=True)
    torch.testing.assert_close(DenselyAdjacentPrediction(3)(x.repeat(1, 9, 1, 1)), expected)


def test_dap_keeps_classes_apart():
    x = torch.arange(5.0).repeat(9)[None, :, None, None].expand(1, 45, 6, 6)
    inside = DenselyAdjacentPrediction(3)(x)[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.arange(5.0)[None, :, None, None].expand(1, 5, 4, 4))


def test_dap_of_the_centre_group_alone_is_a_ninth_of_it():
    x = torch.zeros(1, 27, 6, 6)
    x[:, 12:15] = torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(DenselyAdjacentPrediction(3)(x), x[:, 12:15] / 9)


# ---------------------------------------------------------------- semantic embedding


def test_the_embedding_equals_its_formula_at_odd_sizes():
    seb = randomize(SemanticEmbeddingBranch(4, [5, 6, 7])).double()
    x = torch.randn(2, 4, 17, 23, dtype=torch.float64)
    deeper = [
        torch.randn(2, channels, *size, dtype=torch.float64)
        for channels, size in ((5, (9, 12)), (6, (5, 6)), (7, (3, 3)))
    ]
    expected = x
    for conv, x_q in zip(seb.convs, deeper, strict=True):
        factor = F.conv2d(x_q, conv.weight, conv.bias, padding=1)
        expected = expected * bilinear_by_loops(factor, x.shape[-2:])
    torch.testing.assert_close(seb(x, deeper), expected, rtol=1e-10, atol=1e-12)


def bilinear_by_loops(x, size):
    """Bilinear resizing with pixel centres at halves and edges repeated, row by row."""
    weights = []
    for n_in, n_out in zip(x.shape[-2:], size, strict=True):
        matrix = torch.zeros(n_out, n_in, dtype=x.dtype)
        for i in range(n_out):
            source = max((i + 0.5) * n_in / n_out - 0.5, 0.0)
            low = min(int(source), n_in - 1)
            high = min(low + 1, n_in - 1)
            matrix[i, low] += 1 - (source - low)
            matrix[i, high] += source - low
        weights.append(matrix)
    return torch.einsum("ih,nchw,jw->ncij", weights[0], x, weights[1])


def test_the_embedding_starts_as_the_identity():
    x, deeper = torch.randn(2, 4, 8, 8), [torch.randn(2, 5, 4, 4), torch.randn(2, 6, 2, 2)]
    assert torch.equal(SemanticEmbeddingBranch(4, [5, 6])(x, deeper), x)


def test_without_its_bias_of_one_the_embedding_would_silence_the_level():
    seb = SemanticEmbeddingBranch(4, [5])
    torch.nn.init.zeros_(seb.convs[0].bias)
    found = seb(torch.randn(2, 4, 8, 8), [torch.randn(2, 5, 4, 4)])
    assert torch.equal(found, torch.zeros_like(found))


def test_the_embedding_is_linear_in_the_level_and_in_each_convolution():
    seb = randomize(SemanticEmbeddingBranch(4, [5, 6])).double()
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    deeper = [torch.randn(1, c, s, s, dtype=torch.float64) for c, s in ((5, 4), (6, 2))]
    once = seb(x, deeper)
    torch.testing.assert_close(seb(3 * x, deeper), 3 * once)
    with torch.no_grad():
        for parameter in seb.convs[1].parameters():
            parameter *= 3
    torch.testing.assert_close(seb(x, deeper), 3 * once)


def test_the_head_has_six_embedding_convolutions_as_large_as_the_fact_sheet_says():
    with torch.device("meta"):
        head = ExFuseHead(resnet_shapes(), num_classes=21)
    branches = head.semantic_embedding
    assert [len(branch.convs) for branch in branches] == [3, 2, 1]
    weights = [sum(conv.weight.numel() for conv in branch.convs) for branch in branches]
    assert weights == [8_257_536, 14_155_776, 18_874_368]
    assert count(branches) == 41_290_496


# ---------------------------------------------------------------- channel resolution embedding


def test_sub_pixel_upsampling_equals_its_formula():
    up = randomize(SubPixelUpsample(3)).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    z, found = up.conv(x), up(x)
    for c, h, w, i, j in itertools.product(range(3), range(4), range(5), range(2), range(2)):
        assert torch.equal(found[:, c, 2 * h + i, 2 * w + j], z[:, 4 * c + 2 * i + j, h, w])
    assert torch.equal(found[:, :, 0::2, 0::2], z[:, 0::4])
    assert torch.equal(found[:, :, 1::2, 0::2], z[:, 2::4])


@pytest.mark.parametrize(("classes", "parameters"), [(21, 15_960), (19, 13_072), (150, 810_600)])
def test_sub_pixel_upsampling_has_the_parameters_of_its_convolution(classes, parameters):
    with torch.device("meta"):
        assert count(SubPixelUpsample(classes)) == parameters


# ---------------------------------------------------------------- the head


def figure(head, features):
    """Figure 2 with everything on, written out for four features whose sides double."""
    x2, x3, x4, x5 = (features[f"res{i}"] for i in range(2, 6))
    seb2, seb3, seb4 = head.semantic_embedding
    g2, g3, g4, g5 = (
        head.refine_level[i](head.gcn[i](x))
        for i, x in enumerate((seb2(x2, [x3, x4, x5]), seb3(x3, [x4, x5]), seb4(x4, [x5]), x5))
    )
    e = F.pixel_shuffle(head.up[2].conv(g5), 2)
    d4 = head.up[1](head.refine_sum[2](e + g4))
    d3 = head.up[0](head.refine_sum[1](d4 + g3))
    d2 = head.up_output[0](head.refine_sum[0](d3 + g2))
    d1 = head.refine_output[1](head.up_output[1](head.refine_output[0](d2)))
    return {"sem_seg": dap_by_loops(d1, 3), "ecre": e, "widths": [d.shape[1] for d in (e, d4, d1)]}


def test_the_head_is_the_papers_figure_2():
    head = randomize(build_head(*NAME)).double().train()
    features = random_features((32, 32), batch=1, dtype=torch.float64)
    with torch.no_grad():
        found, expected = head(features), figure(head, features)
    assert expected.pop("widths") == [NUM_CLASSES, 9 * NUM_CLASSES, 9 * NUM_CLASSES]
    assert set(found) == {"sem_seg", "ecre"}
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9)


def test_with_all_parts_off_it_is_gcn_bit_for_bit_with_the_same_weights():
    gcn = randomize(build_head("MODEL.SEM_SEG_HEAD.NAME", "GCNHead")).train()
    exfuse = build_head(*NAME, *switches()).train()
    exfuse.load_state_dict(gcn.state_dict(), strict=True)
    for size in ((64, 96), (70, 101)):
        features = random_features(size)
        found, expected = exfuse(features), gcn(features)
        assert list(found) == list(expected) == ["sem_seg"]
        assert torch.equal(found["sem_seg"], expected["sem_seg"])
    assert exfuse.auxiliary_weights == {}


@pytest.mark.parametrize(
    "on", [c for n in range(5) for c in itertools.combinations(PARTS, n)], ids="+".join
)
def test_each_part_is_a_switch_of_its_own(on):
    head = build_head(*NAME, *switches(*on)).train()
    assert (head.semantic_embedding is not None) == ("seb" in on)
    assert isinstance(head.up[-1], SubPixelUpsample if "sub_pixel" in on else Upsample2x)
    assert head.auxiliary_weights == ({"ecre": 0.4} if "supervision" in on else {})
    assert head.dap.size == (3 if "dap" in on else 1)
    outputs = head(random_features())
    assert outputs["sem_seg"].shape == (2, NUM_CLASSES, 64, 96)
    assert set(outputs) == {"sem_seg", *(["ecre"] if "supervision" in on else [])}
    if "supervision" in on:
        assert outputs["ecre"].shape == (2, NUM_CLASSES, 4, 6)
    assert list(head.eval()(random_features())) == ["sem_seg"]


def test_switching_on_the_embedding_starts_from_gcns_function():
    gcn = randomize(build_head("MODEL.SEM_SEG_HEAD.NAME", "GCNHead"))
    exfuse = build_head(*NAME, *switches("seb"))
    missing, unexpected = exfuse.load_state_dict(gcn.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("semantic_embedding.") for name in missing)
    features = random_features()
    assert torch.equal(exfuse(features)["sem_seg"], gcn(features)["sem_seg"])


@pytest.mark.parametrize(
    ("on", "k7", "k15"),
    [
        ((), 1_261_092, 2_579_556),
        (("sub_pixel",), 1_269_996, 2_588_460),
        (("sub_pixel", "supervision"), 1_269_996, 2_588_460),
        (("seb",), 42_551_588, 43_870_052),
        (("sub_pixel", "seb"), 42_560_492, 43_878_956),
        (("sub_pixel", "seb", "dap"), 50_918_156, 55_429_964),
        (("seb", "dap"), 50_909_252, 55_421_060),
    ],
)
def test_the_head_has_the_expected_parameters(on, k7, k15):
    found = []
    for k in (7, 15):
        with torch.device("meta"):
            head = ExFuseHead(
                resnet_shapes(), num_classes=21, kernel_size=k,
                semantic_embedding="seb" in on, sub_pixel="sub_pixel" in on,
                supervise_first="supervision" in on, dap_size=3 if "dap" in on else 1,
            )  # fmt: skip
        found.append(count(head))
    assert found == [k7, k15]


def test_widened_maps_have_the_parameters_of_the_fact_sheet():
    with torch.device("meta"):
        seven = ExFuseHead(resnet_shapes(), num_classes=21, kernel_size=7)
        fifteen = ExFuseHead(resnet_shapes(), num_classes=21, kernel_size=15)
    assert [count(gcn) for gcn in seven.gcn[:2]] == [1_178_226, 1_855_602]
    assert [count(gcn) for gcn in fifteen.gcn[:2]] == [2_523_906, 3_975_426]
    assert count(seven.refine_output[1]) == 643_356
    assert [count(up) for up in seven.up[:2]] == [571_536, 63_504]
    assert count(seven.up_output[1]) == 571_536


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("MODEL.EXFUSE.DAP_SIZE", 2), r"size 2 \(MODEL.EXFUSE.DAP_SIZE\); it must be odd"),
        (("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res4", "res5"]), r"three where.*DAP_SIZE is over 1"),
        (("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res5"]), r"it needs two features"),
        (("MODEL.EXFUSE.SUPERVISION_WEIGHT", -1.0), r"SUPERVISION_WEIGHT is -1.0; it must be 0"),
        (("MODEL.EXFUSE.MULTI_LABEL_WEIGHT", -1.0), r"MULTI_LABEL_WEIGHT is -1.0; it must be 0"),
        (("MODEL.GCN.UPSAMPLING", "bilinear"), r'DAP_SIZE over 1, set MODEL.GCN.UPSAMPLING "deco'),
    ],
)
def test_a_mistake_is_answered_with_what_is_allowed(pairs, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_head(*NAME, *pairs)
    if "SIZE" not in message and "UPSAMPLING" not in message:
        assert isinstance(caught.value, ConfigError)
