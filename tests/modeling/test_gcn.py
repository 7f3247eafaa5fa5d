"""The suite of GCNHead, and the invariants and counts that prove its blocks."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from sem_seg_head_suite import (
    SHAPES,
    SemSegHeadSuite,
    build_head,
    count,
    random_features,
    randomize,
    resnet_shapes,
)

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.layers import BoundaryRefinement, GlobalConvolution, Upsample2x
from deepfuse_d2.modeling.sem_seg import GCNHead

NAME = ("MODEL.SEM_SEG_HEAD.NAME", "GCNHead")


class TestGCNHead(SemSegHeadSuite):
    overrides = NAME
    stride = 1


class TestCheapGCNHead(SemSegHeadSuite):
    overrides = (
        *NAME, "MODEL.GCN.UPSAMPLING", "bilinear", "MODEL.GCN.OUTPUT_STRIDE", 2,
        "MODEL.GCN.OUTPUT_REFINEMENT", False, "MODEL.GCN.KERNEL_SIZE", [3, 3, 5, 7],
    )  # fmt: skip
    stride = 2


def double(module):
    return randomize(module).double()


# ---------------------------------------------------------------- global convolution


def dense_kernel(gcn):
    """The one k x k kernel a global convolution without biases stands for, by loops."""
    left1, left2 = gcn.conv_l1.weight, gcn.conv_l2.weight
    right1, right2 = gcn.conv_r1.weight, gcn.conv_r2.weight
    out, inner, k = left1.shape[0], left1.shape[1], left1.shape[2]
    kernel = torch.zeros(out, inner, k, k, dtype=left1.dtype)
    for o, i, y, z, c in itertools.product(
        range(out), range(inner), range(k), range(k), range(out)
    ):
        kernel[o, i, y, z] += left2[o, c, 0, z] * left1[c, i, y, 0]
        kernel[o, i, y, z] += right2[o, c, y, 0] * right1[c, i, 0, z]
    return kernel


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_global_convolution_is_one_dense_convolution_of_low_rank(k):
    gcn = double(GlobalConvolution(4, 3, k, bias=False))
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    expected = F.conv2d(x, dense_kernel(gcn), padding=k // 2)
    torch.testing.assert_close(gcn(x), expected, rtol=0, atol=1e-12)


def test_with_kernel_1_a_global_convolution_is_a_product_of_matrices():
    gcn = double(GlobalConvolution(4, 3, 1, bias=False))
    matrices = [conv.weight[:, :, 0, 0] for conv in gcn.children()]
    left1, left2, right1, right2 = matrices
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    expected = torch.einsum("oi,nihw->nohw", left2 @ left1 + right2 @ right1, x)
    torch.testing.assert_close(gcn(x), expected, rtol=0, atol=1e-12)


def test_a_bias_of_the_first_convolution_breaks_the_dense_form_at_borders_only():
    with_bias, without = (double(GlobalConvolution(3, 2, 5, bias=bias)) for bias in (True, False))
    without.load_state_dict(
        {k: v for k, v in with_bias.state_dict().items() if k.endswith("weight")}
    )
    x = torch.randn(1, 3, 12, 12, dtype=torch.float64)
    difference = with_bias(x) - without(x)
    inside = difference[..., 2:-2, 2:-2]
    torch.testing.assert_close(inside, inside[..., :1, :1].expand_as(inside))
    assert not torch.allclose(difference[..., 0, 0], inside[..., 0, 0])


def test_a_global_convolution_is_linear():
    gcn = double(GlobalConvolution(4, 3, 7, bias=False))
    x, y = torch.randn(2, 1, 4, 10, 10, dtype=torch.float64)
    torch.testing.assert_close(gcn(2 * x - 3 * y), 2 * gcn(x) - 3 * gcn(y))


@pytest.mark.parametrize("k", [7, 15])
def test_an_impulse_reaches_exactly_k_by_k_positions(k):
    gcn = double(GlobalConvolution(1, 2, k, bias=False))
    x = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    x[0, 0, 15, 15] = 1
    reached = (gcn(x) != 0).any(dim=1)[0]
    expected = torch.zeros(31, 31, dtype=torch.bool)
    expected[15 - k // 2 : 16 + k // 2, 15 - k // 2 : 16 + k // 2] = True
    assert torch.equal(reached, expected)


# ---------------------------------------------------------------- boundary refinement


def test_boundary_refinement_equals_its_formula():
    block = double(BoundaryRefinement(3))
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    inner = F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1).clamp(min=0)
    expected = x + F.conv2d(inner, block.conv2.weight, block.conv2.bias, padding=1)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_boundary_refinement_starts_as_the_identity_for_negative_values_too():
    x = torch.randn(2, 3, 8, 9)
    assert (x < 0).any()
    assert torch.equal(BoundaryRefinement(3)(x), x)


def test_boundary_refinement_reaches_5_by_5_positions():
    block = double(BoundaryRefinement(1, bias=False))
    x = torch.zeros(1, 1, 11, 11, dtype=torch.float64)
    torch.nn.init.uniform_(block.conv1.weight, 0.1, 1)  # nothing is rectified away
    x[0, 0, 5, 5] = 1
    reached = block(x)[0, 0] != 0
    expected = torch.zeros(11, 11, dtype=torch.bool)
    expected[3:8, 3:8] = True
    assert torch.equal(reached, expected)


def test_boundary_refinement_scales_with_positive_factors_only():
    block = double(BoundaryRefinement(3, bias=False))
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(block(3 * x), 3 * block(x))
    assert not torch.allclose(block(-3 * x), -3 * block(x))


# ---------------------------------------------------------------- upsampling


def test_the_transposed_convolution_starts_as_bilinear_but_for_the_outermost_ring():
    deconv, bilinear = Upsample2x(3, 3, "deconv"), Upsample2x(3, 3, "bilinear")
    x = torch.randn(2, 3, 6, 7)
    found, expected = deconv(x), bilinear(x)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    assert not torch.allclose(found[..., 0, :], expected[..., 0, :])
    assert not torch.allclose(found[..., -1], expected[..., -1])


def test_a_widening_transposed_convolution_starts_with_copies():
    x = torch.randn(1, 3, 4, 5)
    wide = Upsample2x(3, 9)(x)
    assert wide.shape == (1, 9, 8, 10)
    for group in wide.split(3, dim=1):
        assert torch.equal(group, Upsample2x(3, 3)(x))


# ---------------------------------------------------------------- counts of the paper


@pytest.mark.parametrize(
    ("k", "parameters"),
    [(3, 260_694), (5, 434_490), (7, 608_286), (9, 782_082), (11, 955_878),
     (13, 1_129_674), (15, 1_303_470), (25, 2_172_450)],
)  # fmt: skip
def test_a_global_convolution_on_res5_has_the_parameters_of_the_papers_table_2(k, parameters):
    with torch.device("meta"):
        assert count(GlobalConvolution(2048, 21, k, bias=False)) == parameters
        assert count(GlobalConvolution(2048, 21, k)) == parameters + 84


def test_it_has_two_kths_of_the_parameters_of_the_dense_convolution_it_replaces():
    with torch.device("meta"):
        dense = {k: count(Conv2d(2048, 21, k, bias=False)) for k in (3, 5, 7, 9)}
        ratio = count(GlobalConvolution(2048, 21, 7, bias=False)) / dense[7]
    assert dense == {3: 387_072, 5: 1_075_200, 7: 2_107_392, 9: 3_483_648}  # table 2
    assert ratio == pytest.approx(2 / 7 * (1 + 21 / 2048))
    assert ratio == pytest.approx(0.28864, abs=1e-5)


@pytest.mark.parametrize(
    ("width", "parameters"), [(2048, 75_884_544), (1024, 28_505_088), (210, 4_307_310)]
)
def test_the_stack_of_3x3_that_emulates_k_7_has_the_parameters_of_table_4(width, parameters):
    channels = [2048, width, width, 21]
    with torch.device("meta"):
        stack = [Conv2d(a, b, 3, bias=False) for a, b in itertools.pairwise(channels)]
    assert sum(count(conv) for conv in stack) == parameters


def test_boundary_refinement_and_deconvolution_have_the_parameters_of_the_fact_sheet():
    assert count(BoundaryRefinement(21, bias=False)) == 7_938
    assert count(BoundaryRefinement(21)) == 7_980
    assert count(Upsample2x(21, 21)) == 7_056
    assert count(Upsample2x(21, 21, "bilinear")) == 0


@pytest.mark.parametrize(
    ("k", "levels"),
    [(7, [81_522, 156_786, 307_314, 608_370]), (15, [174_594, 335_874, 658_434, 1_303_554])],
)
def test_each_levels_global_convolution_has_the_expected_parameters(k, levels):
    with torch.device("meta"):
        head = GCNHead(resnet_shapes(), num_classes=21, kernel_size=k)
    assert [count(gcn) for gcn in head.gcn] == levels


@pytest.mark.parametrize(
    ("num_classes", "k", "upsampling", "parameters"),
    [
        (21, 7, "bilinear", 1_225_812), (21, 7, "deconv", 1_261_092),
        (21, 15, "bilinear", 2_544_276), (21, 15, "deconv", 2_579_556),
        (19, 25, "bilinear", 3_779_328), (19, 25, "deconv", 3_808_208),
        (150, 15, "bilinear", 23_630_100), (150, 15, "deconv", 25_430_100),
    ],
)  # fmt: skip
def test_the_head_has_the_expected_parameters(num_classes, k, upsampling, parameters):
    with torch.device("meta"):
        head = GCNHead(
            resnet_shapes(), num_classes=num_classes, kernel_size=k, upsampling=upsampling
        )
    assert count(head) == parameters
    modules = list(head.modules())
    assert sum(isinstance(m, GlobalConvolution) for m in modules) == 4
    assert sum(isinstance(m, BoundaryRefinement) for m in modules) == 9
    assert sum(isinstance(m, Upsample2x) for m in modules) == 5


# ---------------------------------------------------------------- the decoder


def reference(head, features):
    """Figure 2A, written out for four features whose sides double."""
    up, br, out = head.up, head.refine_sum, head.refine_output
    g2, g3, g4, g5 = (head.refine_level[i](head.gcn[i](features[f"res{i + 2}"])) for i in range(4))
    s4 = br[2](up[2](g5) + g4)
    s3 = br[1](up[1](s4) + g3)
    s2 = br[0](up[0](s3) + g2)
    t = out[0](head.up_output[0](s2))
    return out[1](head.up_output[1](t))


def test_the_head_is_the_papers_figure_2():
    head = double(build_head(*NAME))
    features = random_features((64, 96), dtype=torch.float64)
    found = head(features)["sem_seg"]
    torch.testing.assert_close(found, reference(head, features), rtol=0, atol=1e-9)


def test_maps_of_the_decoder_double_from_stride_32_to_1():
    head = build_head(*NAME).eval()
    sizes = []
    for module in head.modules():
        if isinstance(module, BoundaryRefinement):
            module.register_forward_hook(lambda m, i, o: sizes.append(tuple(o.shape[1:])))
    head(random_features((160, 160), batch=1))
    # four levels, from fine to coarse; three sums; two outputs
    assert sizes == [(3, s, s) for s in (40, 20, 10, 5, 10, 20, 40, 80, 160)]


def test_alone_the_coarsest_level_is_upsampled_five_times():
    head = build_head(*NAME, "MODEL.GCN.UPSAMPLING", "bilinear").eval()
    features = random_features((64, 64))
    with torch.no_grad():
        for gcn in head.gcn[:-1]:
            for parameter in gcn.parameters():
                parameter.zero_()
        expected = head.gcn[-1](features["res5"])
        for _ in range(5):
            expected = F.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
        assert torch.equal(head(features)["sem_seg"], expected)


def test_two_features_of_any_stride_make_a_head():
    shapes = {name: SHAPES[name] for name in ("res4", "res5")}
    head = GCNHead(shapes, num_classes=3, kernel_size=3)
    assert head(random_features((64, 96)))["sem_seg"].shape == (2, 3, 64, 96)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.GCN.KERNEL_SIZE", [4], r"kernel of a global convolution is 4; it must be odd"),
        ("MODEL.GCN.KERNEL_SIZE", [3, 5], r"KERNEL_SIZE has 2 entries for 4 features"),
        ("MODEL.GCN.UPSAMPLING", "nearest", r'upsampling "nearest".*"deconv" or "bilinear"'),
        ("MODEL.GCN.OUTPUT_STRIDE", 8, r"OUTPUT_STRIDE = 8 is not a power of two from 1 to 4"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2"], r"IN_FEATURES is \['p2'\], but the backbone"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res4"], r"strides \[4, 16\]; it needs"),
    ],
)
def test_a_mistake_is_answered_with_what_is_allowed(key, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_head(*NAME, key, value)
    if key.startswith("MODEL.SEM_SEG_HEAD"):
        assert isinstance(caught.value, ConfigError)
