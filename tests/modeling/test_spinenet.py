"""SpineNet and its kin: published counts, a second implementation, the graph, tables of one's own.

The counts are those of the authors' code (TensorFlow) and of a run of the PyTorch port.
"""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from backbone_suite import build, loss_of, perturb_norms
from spinenet_reference import (
    MBCONV,
    MBCONV_OUTPUTS,
    SCALED,
    SPINENET,
    SPINENET_OUTPUTS,
    Reference,
    relu,
    swish,
)

from deepfuse_d2.analysis.counting import count as count_operations
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.backbone import SpineNet
from deepfuse_d2.modeling.backbone.spinenet_blocks import Style
from deepfuse_d2.modeling.backbone.spinenet_tables import VARIANTS, Block

# all, stem with blocks 0 and 1, resampling, permuted blocks, endpoints
COUNTS = {
    "SpineNet-49S": (9_089_215, 74_398, 2_615_546, 6_015_527, 383_744),
    "SpineNet-49": (21_831_488, 154_944, 6_203_648, 14_290_688, 1_182_208),
    "SpineNet-96": (36_262_976, 295_744, 6_203_648, 28_581_376, 1_182_208),
    "SpineNet-143": (60_247_616, 436_544, 15_756_800, 42_872_064, 1_182_208),
    "SpineNet-190": (126_587_664, 954_076, 26_477_664, 96_091_092, 3_064_832),
    "MBConv-49": (2_268_708, 7_996, 250_880, 1_987_464, 22_368),
    "MBConv-49S": (975_678, 3_708, 110_158, 849_652, 12_160),
    "MBConv-49XS": (842_456, 2_966, 96_010, 736_688, 6_792),
    "m0": (649_970, 7_981, 144_672, 492_661, 4_656),
    "m1": (1_063_171, 7_981, 237_600, 807_270, 10_320),
    "m2": (2_422_462, 16_960, 527_008, 1_854_302, 24_192),
    "d0": (3_658_807, 16_960, 787_584, 2_824_439, 29_824),
    "d1": (5_069_706, 32_119, 787_584, 4_208_995, 41_008),
    "d2": (6_158_134, 32_119, 968_416, 5_099_135, 58_464),
    "d3": (8_203_282, 60_855, 1_116_512, 6_937_275, 88_640),
    "d4": (13_278_163, 70_987, 1_510_688, 11_550_888, 145_600),
}
# resampling and group of blocks 2, 3, ...
BY_BLOCK = {
    "SpineNet-49": (
        (33_920, 70_400), (52_480, 1_180_672), (134_528, 280_064), (189_824, 1_117_184),
        (526_336, 1_180_672), (430_592, 1_117_184), (378_624, 1_180_672), (428_032, 1_180_672),
        (332_288, 1_117_184), (430_592, 1_117_184), (528_896, 1_117_184), (264_576, 280_064),
        (824_320, 1_117_184), (824_320, 1_117_184), (824_320, 1_117_184),
    ),
    "MBConv-49": (
        (1_232, 10_132), (1_248, 10_132), (5_216, 99_056), (4_584, 26_488), (6_408, 99_056),
        (21_888, 189_750), (13_120, 99_056), (22_832, 189_750), (29_232, 189_750),
        (25_536, 189_750), (25_536, 189_750), (15_680, 99_056), (6_240, 26_488), (20_128, 189_750),
        (27_056, 189_750), (24_944, 189_750),
    ),
    "d0": (
        (704, 5_027), (19_136, 163_716), (8_384, 36_969), (32_416, 217_704), (47_648, 26_488),
        (27_360, 217_704), (88_992, 419_697), (89_312, 140_755), (51_456, 546_470),
        (49_504, 277_739), (32_864, 163_716), (9_760, 26_488), (124_192, 277_739),
        (160_800, 277_739), (45_056, 26_488),
    ),
}  # fmt: skip
# of block 17 (two resamplings and the block), and of p2
EXTRA_P2 = {
    "SpineNet-49S": (56_743, 21_248),
    "SpineNet-49": (137_152, 66_048),
    "SpineNet-96": (207_552, 66_048),
    "SpineNet-143": (343_680, 66_048),
    "SpineNet-190": (694_710, 171_008),
}
# side of a square image -> giga multiply-adds, as far as they were published or measured
MULTIPLY_ADDS = {
    "SpineNet-49S": {256: 1.972, 640: 12.325},
    "SpineNet-49": {256: 4.522, 640: 28.262, 896: 55.394},
    "SpineNet-96": {256: 7.441, 1024: 119.054},
    "SpineNet-143": {256: 11.810, 1280: 295.259},
    "SpineNet-190": {256: 24.839},
    "MBConv-49": {384: 0.785},
    "MBConv-49S": {384: 0.341},
    "MBConv-49XS": {256: 0.129},
    "m0": {512: 0.477},
    "m1": {512: 0.646},
    "m2": {512: 1.424},
    "d0": {512: 1.940},
    "d1": {512: 2.991},
    "d2": {512: 3.514},
    "d3": {512: 5.436},
    "d4": {512: 7.855},
}


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def on_meta(name, **arguments):
    with torch.device("meta"):
        return SpineNet(VARIANTS[name], **arguments)


def permuted(network):
    return [m for name, m in network.named_children() if name not in ("block0", "block1")][1:-1]


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_those_published_also_part_by_part(name):
    network = on_meta(name)
    blocks = permuted(network)
    found = (
        count(network),
        count(network.stem, network.block0, network.block1),
        count(*(block.resamples for block in blocks)),
        count(*(block.group for block in blocks)),
        count(network.endpoints),
    )
    assert found == COUNTS[name]


@pytest.mark.parametrize("name", BY_BLOCK)
def test_parameters_are_those_published_block_by_block(name):
    blocks = permuted(on_meta(name))
    assert tuple((count(b.resamples), count(b.group)) for b in blocks) == BY_BLOCK[name]


@pytest.mark.parametrize("name", EXTRA_P2)
def test_p2_costs_block_17_and_its_endpoint_and_nothing_where_it_is_not_asked_for(name):
    every = ("p2", "p3", "p4", "p5", "p6", "p7")
    network = on_meta(name, out_features=every)
    assert (count(network.block17), count(network.endpoints["p2"])) == EXTRA_P2[name]
    assert count(network) == count(on_meta(name)) + sum(EXTRA_P2[name])
    assert network.output_shape()["p2"].stride == 4


def test_the_143L_has_the_widths_of_190_and_the_repeats_of_143():
    network, wide = on_meta("SpineNet-143L"), on_meta("SpineNet-190")
    block, of_190 = permuted(network)[0], permuted(wide)[0]
    assert count(block.resamples) == count(of_190.resamples)
    assert (len(block.group), len(of_190.group)) == (3, 4)
    assert count(block.group) * 4 == count(of_190.group) * 3


def test_with_a_classifier_the_counts_are_those_of_the_authors_zoo():
    # 1001 classes on the mean of one endpoint
    for name, printed in (
        ("SpineNet-49", 22.1),
        ("SpineNet-96", 36.5),
        ("SpineNet-143", 60.5),
        ("SpineNet-190", 127.1),
    ):
        channels = VARIANTS[name].endpoint_channels
        assert round((COUNTS[name][0] + channels * 1001 + 1001) / 1e6, 1) == printed


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_multiply_adds_are_those_published(name):
    network = on_meta(name).eval()
    image = torch.zeros(1, 3, 128, 128, device="meta")
    counts, unsupported = count_operations([network], network, [image])
    assert not unsupported
    for side, expected in MULTIPLY_ADDS[name].items():
        # in proportion to the area, but for the gates of squeeze-excitation, which are tiny
        found = counts[""]["multiply_adds"] / 1e9 * (side / 128) ** 2
        assert found == pytest.approx(expected, rel=0.01), side


REFERENCES = {
    "SpineNet-49S": (SPINENET, SPINENET_OUTPUTS, "alpha_conv", "conv7", relu),
    "MBConv-49XS": (MBCONV, MBCONV_OUTPUTS, "depthwise_chain", "conv3", swish),
    "m0": (SCALED, SPINENET_OUTPUTS, "space_to_depth", "conv3_three", swish),
    "d1": (SCALED, SPINENET_OUTPUTS, "space_to_depth", "conv3_three", swish),
}


@pytest.mark.parametrize(
    ("name", "same_pooling"), [("SpineNet-49S", True), *((name, False) for name in REFERENCES)]
)
def test_outputs_equal_a_second_implementation_written_from_the_published_table(name, same_pooling):
    table, outputs, resampling, stem, activation = REFERENCES[name]
    style = Style(activation=VARIANTS[name].activation, same_pooling=same_pooling)
    network = perturb_norms(SpineNet(VARIANTS[name], style=style)).double().eval()
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    image = torch.randn(1, 3, 128, 256, dtype=torch.float64)
    with torch.no_grad():
        found = network(image)
    reference = Reference(state, activation, same_pooling=same_pooling)
    expected = reference.run(image.numpy(), table, outputs, resampling, stem)
    assert list(found) == list(expected)
    for key, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[key].numpy(), value, rtol=0, atol=1e-12 * scale)


def test_p2_and_swish_and_plain_endpoints_equal_the_second_implementation_too():
    outputs = {"p2": 17, "p5": 14}
    network = SpineNet(
        VARIANTS["SpineNet-49S"], style=Style(activation="swish"), out_features=list(outputs),
        endpoint_activation=False, endpoint_channels=24,
    )  # fmt: skip
    network = perturb_norms(network).double().eval()
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    image = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    with torch.no_grad():
        found = network(image)
    reference = Reference(state, swish, endpoint_activation=False)
    expected = reference.run(image.numpy(), SPINENET, outputs, "alpha_conv", "conv7")
    assert found["p2"].shape == (1, 24, 32, 32)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key].numpy(), value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SpineNet-49", [2, 2, 2, 3, 2, 4, 2, 2, 3, 1, 3, 0, 2, 0, 2, 0, 0]),
        ("d0", [2, 2, 2, 3, 2, 4, 2, 2, 3, 1, 3, 0, 2, 0, 2, 0, 0]),
        ("MBConv-49", [1, 3, 2, 2, 3, 2, 4, 2, 2, 3, 1, 3, 0, 2, 0, 2, 0, 0]),
    ],
)
def test_every_block_is_resampled_as_often_as_in_the_published_graph(name, expected):
    blocks = VARIANTS[name].all_blocks[: len(expected)]
    taken = Counter(source for block in blocks for source in block.inputs)
    assert [taken[i] for i in range(len(expected))] == expected


@pytest.mark.parametrize(
    ("name", "tail", "joined"), [("SpineNet-49", 11, 14), ("MBConv-49", 12, 15)]
)
def test_without_the_extra_edge_one_block_is_left_over_and_the_check_says_so(name, tail, joined):
    table = VARIANTS[name]
    blocks = list(table.blocks)
    assert blocks[joined - 2].add == (tail,)
    blocks[joined - 2] = dataclasses.replace(blocks[joined - 2], add=())
    with pytest.raises(ConfigError, match=rf"Block {tail} .*is no output, and no block takes it"):
        SpineNet(dataclasses.replace(table, blocks=tuple(blocks)))


def test_an_output_depends_on_the_blocks_before_it_in_the_graph_and_on_no_others():
    network = SpineNet(VARIANTS["SpineNet-49S"]).train()
    for name, without in (("p3", {11, 12, 14, 15, 16}), ("p4", {11, 13, 14, 15, 16})):
        network.zero_grad(set_to_none=True)
        network(torch.randn(2, 3, 128, 128))[name].sum().backward()
        for index in range(2, 17):
            grad = next(getattr(network, f"block{index}").parameters()).grad
            assert (grad is None) == (index in without), (name, index)


def test_a_repeated_block_is_fed_by_the_one_before_it():
    once, twice = on_meta("d0"), on_meta("d1")
    assert count(*(b.resamples for b in permuted(once))) == count(
        *(b.resamples for b in permuted(twice))
    )
    group = SpineNet(VARIANTS["d1"]).eval().block3.group
    assert len(group) == 2
    x = torch.randn(1, group[0].in_channels, 8, 8)
    with torch.no_grad():
        before = group(x)
        group[0].conv3.weight.mul_(2)
        assert not torch.allclose(group(x), before)


def test_a_block_of_mbconv_has_a_shortcut_only_where_nothing_changes():
    # 8 -> 8 in m0 and m1, 8 -> 16 in the others
    for name, expected in (("m0", True), ("m1", True), ("m2", False), ("d0", False), ("d4", False)):
        assert on_meta(name).stem.groups[0][0].has_shortcut == expected, name


def test_batch_norms_have_the_epsilon_and_momentum_of_the_authors():
    network = on_meta("SpineNet-49S")
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all((m.eps, m.momentum) == (1e-3, 0.01) for m in norms)


def test_convolutions_start_by_variance_scaling_over_their_inputs():
    network = SpineNet(VARIANTS["SpineNet-49S"])
    for conv in (network.block3.group[0].conv1, network.block14.resamples[0].squeeze):
        std = conv.weight.std().item()
        assert std == pytest.approx(conv.weight[0].numel() ** -0.5, rel=0.05)


@pytest.mark.parametrize("name", ["SpineNet-49S", "MBConv-49XS", "m0"])
def test_stochastic_depth_grows_along_the_table_and_ends_with_training(name):
    network = SpineNet(VARIANTS[name], drop_path=0.5)
    rates = [block.group[0].drop_path.p for block in permuted(network)]
    assert rates == pytest.approx([0.5 * (i + 1) / len(rates) for i in range(len(rates))])
    assert network.block0[0].drop_path.p == 0
    image = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        network.train()
        assert not torch.equal(network(image)["p3"], network(image)["p3"])
        plain = SpineNet(VARIANTS[name]).eval()
        plain.load_state_dict(network.state_dict())
        assert torch.equal(network.eval()(image)["p3"], plain(image)["p3"])


def test_drop_block_drops_squares_in_training_alone():
    style = Style(drop_block=0.2, drop_block_size=3)
    network = SpineNet(VARIANTS["SpineNet-49S"], style=style)
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(image)["p7"], network(image)["p7"])
        block = network.block13.group[0].train()
        dropped = block._layer(block.conv2, torch.randn(1, 83, 16, 16)) == 0
        # relu alone leaves single zeros; somewhere nine stand together in each of the maps
        squares = torch.nn.functional.avg_pool2d(dropped.float(), 3, 1) == 1
        assert squares.any()
    with pytest.raises(ConfigError, match=r"DROP_BLOCK is 1\.0"):
        Style(drop_block=1.0)


@pytest.mark.parametrize("size", [(320, 320), (128, 200), (64, 64)])
def test_an_image_that_was_not_padded_is_refused_with_the_multiple_it_needs(size):
    network = SpineNet(VARIANTS["m0"]).eval()
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}.*multiples of 128"):
        network(torch.randn(1, 3, *size))


def test_fewer_outputs_may_need_fewer_levels():
    # without block 9 and what hangs on it, nothing is coarser than level 6
    rows = [
        {"LEVEL": 4, "KIND": "residual", "INPUTS": [0, 1]},
        {"LEVEL": 3, "KIND": "bottleneck", "INPUTS": [1, 2], "OUTPUT": True},
        {"LEVEL": 6, "KIND": "bottleneck", "INPUTS": [2], "OUTPUT": True},
    ]
    own = ("MODEL.BACKBONE.NAME", "build_spinenet_backbone", "MODEL.SPINENET.NAME", "SpineNet-49S",
           "MODEL.SPINENET.BLOCKS", rows)  # fmt: skip
    assert build(*own, "MODEL.SPINENET.OUT_FEATURES", ["p3", "p6"]).size_divisibility == 64
    network = build(*own, "MODEL.SPINENET.OUT_FEATURES", ["p3"]).train()
    assert network.size_divisibility == 16
    loss_of(network(torch.randn(2, 3, 48, 64))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert not hasattr(network, "block4")


def own(*rows, name="SpineNet-49S"):
    return build(
        "MODEL.BACKBONE.NAME", "build_spinenet_backbone", "MODEL.SPINENET.NAME", name,
        "MODEL.SPINENET.BLOCKS", list(rows), "MODEL.SPINENET.OUT_FEATURES", ["p3"],
    )  # fmt: skip


GOOD = {"LEVEL": 3, "KIND": "bottleneck", "INPUTS": [0, 1], "OUTPUT": True}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**GOOD, "LEVEL": 0, "WIDTH": 8}], "Block 2 .*has level 0; choose one of 1 to 8"),
        ([{**GOOD, "KIND": "dense"}], 'kind "dense"; choose one of'),
        ([{**GOOD, "INPUTS": [0, 2]}], "takes block 2; it can take those before it, 0 to 1"),
        ([{**GOOD, "INPUTS": []}], "has no inputs"),
        ([{**GOOD, "OUTPUT": False}], "No block is an output"),
        ([GOOD, GOOD], "both the output p3"),
        ([GOOD, {**GOOD, "OUTPUT": False}], "Block 3 .*no output, and no block takes it"),
        ([{**GOOD, "UNUSED": True}], "is said to be unused, and is an output"),
        (
            [{**GOOD, "OUTPUT": False, "UNUSED": True}, {**GOOD, "INPUTS": [0, 2]}],
            "takes block 2, which is said to be unused",
        ),
        ([{**GOOD, "ADD": [0]}], "adds block 0 as it is, of level 2 and 164 channels to level 3"),
        ([{**GOOD, "WIDTH": 0}], "has width 0 and 1 repeats"),
        ([{"LEVEL": 3, "OUTPUT": True}], r"lacks \['KIND', 'INPUTS'\]"),
        ([{**GOOD, "STRIDE": 2}], r"unknown keys \['STRIDE'\]"),
        ([[3, "bottleneck"]], "give a mapping with the keys LEVEL"),
    ],
)
def test_a_wrong_table_of_ones_own_is_answered_with_the_block_and_the_reason(rows, message):
    with pytest.raises(ConfigError, match=message):
        own(*rows)


def test_an_own_block_without_a_width_needs_a_network_with_one_width_a_level():
    assert own(GOOD).block2.group[0].conv1.out_channels == 83
    with pytest.raises(ConfigError, match=r"BLOCKS\[0\] \(block 2\) has no WIDTH"):
        own({**GOOD, "KIND": "mbconv"}, name="d0")
    assert own({**GOOD, "KIND": "mbconv", "WIDTH": 24}, name="d0").output_shape()["p3"].channels


def test_a_block_that_is_named_unused_is_not_built():
    unused = {"LEVEL": 5, "KIND": "residual", "INPUTS": [0], "UNUSED": True}
    network = own(GOOD, unused)
    assert network.stage_names == ("stem", "block0", "block1", "block2", "endpoints")


def test_the_published_table_written_as_ones_own_is_the_published_network():
    rows = [
        {"LEVEL": b.level, "KIND": b.kind, "INPUTS": list(b.inputs), "ADD": list(b.add),
         "OUTPUT": b.output} for b in VARIANTS["SpineNet-49S"].blocks
    ]  # fmt: skip
    arguments = (
        "MODEL.BACKBONE.NAME", "build_spinenet_backbone", "MODEL.SPINENET.NAME", "SpineNet-49S"
    )  # fmt: skip
    plain = build(*arguments).eval()
    written = build(*arguments, "MODEL.SPINENET.BLOCKS", rows).eval()
    written.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.equal(plain(image)["p5"], written(image)["p5"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("NAME", "SpineNet-50"), r'NAME = "SpineNet-50" is unknown; choose one of "SpineNet-49S"'),
        (("OUT_FEATURES", ["p3", "res4"]), r"OUT_FEATURES is \['p3', 'res4'\].*'p7'"),
        (("OUT_FEATURES", []), "OUT_FEATURES is"),
        (("ACTIVATION", "gelu"), 'ACTIVATION = "gelu" is unknown.*swish'),
        (("DROP_PATH", 1.0), r"DROP_PATH is 1\.0"),
        (("SQUARE_SIZE", 640), "SQUARE_SIZE is 640, and images may have sides of up to 1333"),
    ],
)
def test_a_wrong_key_is_answered_with_what_is_allowed(overrides, message):
    key, value = overrides
    with pytest.raises(ConfigError, match=message):
        build(
            "MODEL.BACKBONE.NAME", "build_spinenet_backbone", f"MODEL.SPINENET.{key}", value
        )  # fmt: skip


def test_a_map_that_several_blocks_take_is_changed_by_none_of_them():
    network = SpineNet(VARIANTS["SpineNet-49S"]).eval()
    seen = {}

    def keep(module, inputs, output):
        seen[module] = (output, output.clone())

    for name, module in network.named_children():
        if name.startswith("block"):
            module.register_forward_hook(keep)
    with torch.no_grad():
        network(torch.randn(1, 3, 128, 128))
    assert len(seen) == 17
    assert all(torch.equal(output, kept) for output, kept in seen.values())


def test_channels_of_a_block_are_four_times_its_width_for_bottlenecks_alone():
    assert Block(3, "bottleneck", width=41).channels == 164
    assert Block(3, "residual", width=41).channels == Block(3, "mbconv", width=41).channels == 41
