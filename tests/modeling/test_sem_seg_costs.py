"""Multiply-adds and receptive fields of the published architectures, counted without memory."""

import pytest
import torch
from backbone_suite import build as build_bottom_up
from detectron2.layers import ShapeSpec
from sem_seg_head_suite import resnet_shapes
from torch import nn

from deepfuse_d2.layers import BoundaryRefinement, GlobalConvolution
from deepfuse_d2.modeling.backbone import MobileNetV2
from deepfuse_d2.modeling.sem_seg import ExFuseHead, GCNHead, RefineNetHead


def multiply_adds(module, inputs, kind=nn.Module):
    """Of all convolutions inside modules of `kind` (by default, all) in one forward pass."""
    chosen = {
        id(conv) for part in module.modules() if isinstance(part, kind) for conv in part.modules()
    }
    total = 0

    def note(conv, given, output):
        nonlocal total
        if id(conv) in chosen:
            # a transposed convolution spends its kernel on each input position
            positions = (given[0] if isinstance(conv, nn.ConvTranspose2d) else output).shape
            total += conv.weight.numel() * positions[-2] * positions[-1]

    hooks = [
        m.register_forward_hook(note)
        for m in module.modules()
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    with torch.no_grad():
        outputs = module.eval()(inputs)
    for hook in hooks:
        hook.remove()
    return total, outputs


def resnet_features(size):
    return {
        name: torch.empty(1, shape.channels, *(-(-s // shape.stride) for s in size), device="meta")
        for name, shape in resnet_shapes().items()
    }


@pytest.mark.parametrize(
    ("k", "global_convs", "total"), [(7, 2_446_456_320, 6.007), (15, 5_242_406_400, 8.803)]
)
def test_gcn_costs_what_the_fact_sheet_says(k, global_convs, total):
    with torch.device("meta"):
        head = GCNHead(resnet_shapes(), num_classes=21, kernel_size=k)
    features = resnet_features((512, 512))
    assert multiply_adds(head, features, GlobalConvolution)[0] == global_convs
    assert multiply_adds(head, features, BoundaryRefinement)[0] == 2_944_553_472
    assert multiply_adds(head, features, nn.ConvTranspose2d)[0] == 615_960_576
    assert multiply_adds(head, features)[0] / 1e9 == pytest.approx(total, abs=5e-4)


def test_exfuse_costs_what_the_fact_sheet_says():
    with torch.device("meta"):
        head = ExFuseHead(resnet_shapes(), num_classes=21)
    features = resnet_features((512, 512))
    total = 0
    names = list(features)
    for i, branch in enumerate(head.semantic_embedding):
        for conv, name in zip(branch.convs, names[i + 1 :], strict=True):
            cost = conv.weight.numel() * features[name].shape[-2] * features[name].shape[-1]
            total += cost
            if name == names[i + 1]:
                assert cost == 4_831_838_208
    assert total == 20_535_312_384
    widest = head.refine_output[-1]
    assert sum(p.numel() for p in widest.parameters() if p.ndim == 4) == 642_978


@pytest.mark.parametrize(
    ("depth", "light_weight", "size", "expected"),
    [
        (50, True, (512, 512), 31.977), (101, True, (512, 512), 51.372),
        (152, True, (512, 512), 70.766), (101, False, (512, 512), 262.899),
        (50, True, (625, 468), 36.614), (101, True, (625, 468), 59.342),
        (152, True, (625, 468), 81.915), (101, False, (625, 468), 298.307),
    ],
)  # fmt: skip
def test_refinenet_costs_what_the_fact_sheet_says(depth, light_weight, size, expected):
    with torch.device("meta"):
        bottom_up = build_bottom_up(
            "MODEL.RESNETS.DEPTH", depth, "MODEL.BACKBONE.NAME", "build_resnet_backbone"
        )
        head = RefineNetHead(bottom_up.output_shape(), num_classes=21, light_weight=light_weight)
    below, features = multiply_adds(bottom_up, torch.empty(1, 3, *size, device="meta"))
    above, outputs = multiply_adds(head, features)
    assert (below + above) / 1e9 == pytest.approx(expected, abs=5e-4)
    assert outputs["sem_seg"].shape[-2:] == tuple(-(-side // 4) for side in size)


@pytest.mark.parametrize(("size", "expected"), [((512, 512), 8.584), ((625, 468), 9.716)])
def test_light_weight_refinenet_on_mobilenet_costs_what_the_fact_sheet_says(size, expected):
    names = ["res2", "res3", "res4a", "res4", "res5a", "res5"]
    with torch.device("meta"):
        bottom_up = MobileNetV2(out_features=names)
        head = RefineNetHead(
            bottom_up.output_shape(), num_classes=21, light_weight=True, widths=(256, 256),
            activation="relu6", fuse_conv_on_features=False,
        )  # fmt: skip
    below, features = multiply_adds(bottom_up, torch.empty(1, 3, *size, device="meta"))
    above, _ = multiply_adds(head, features)
    assert (below + above) / 1e9 == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [([8, 8, 9, 8], [75, 195, 467, 947]), ([3, 4, 23, 3], [35, 91, 811, 971])],
)
def test_rearranged_stages_see_as_far_as_the_fact_sheet_says(blocks, expected):
    with torch.device("meta"):
        network = build_bottom_up(
            "MODEL.BACKBONE.NAME", "build_rearranged_resnet_backbone",
            "MODEL.RESNETS.DEPTH", 101, "MODEL.EXFUSE.STAGE_BLOCKS", blocks,
        )  # fmt: skip
    # 7x7 of stride 2, then a 3x3 pool of stride 2
    field, step = 7 + 2 * 2, 4
    found = []
    for stage in network.stages:
        for block in stage:
            for conv in (block.conv1, block.conv2, block.conv3):
                field += (conv.kernel_size[0] - 1) * step
                step *= conv.stride[0]
        found.append(field)
    assert found == expected


def test_a_light_weight_head_reads_any_widths_of_features():
    shapes = {"res4": ShapeSpec(channels=24, stride=16), "res5": ShapeSpec(channels=40, stride=32)}
    head = RefineNetHead(shapes, num_classes=3, light_weight=True, widths=(16, 8))
    features = {"res4": torch.randn(1, 24, 5, 7), "res5": torch.randn(1, 40, 3, 4)}
    assert head(features)["sem_seg"].shape == (1, 3, 5, 7)
