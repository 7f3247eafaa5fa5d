"""detectron2's Swin Transformer from a yaml: as any bottom-up network, and in composites."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from backbone_suite import BackboneSuite, backbone_config, build
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.backbone import CompositeBackbone, Swin
from deepfuse_d2.modeling.backbone.by_stages import enter_stage, run_stage

KEY = "DEEPFUSE_D2.MODEL.SWIN"
NAME = ("MODEL.BACKBONE.NAME", "build_swin_backbone")
SMALL = (
    *NAME, f"{KEY}.EMBED_DIM", 16, f"{KEY}.DEPTHS", [1, 2, 1, 1], f"{KEY}.NUM_HEADS", [1, 2, 4, 8],
    f"{KEY}.WINDOW_SIZE", 4, f"{KEY}.DROP_PATH", 0.0,
)  # fmt: skip
FEATURES = ("res2", "res3", "res4", "res5")


class TestSwin(BackboneSuite):
    overrides = SMALL
    out_features_key = f"{KEY}.OUT_FEATURES"
    # LayerNorm, always
    norm_key = None
    # detectron2's networks are checkpointed by the trainer
    checkpoint_stages = ()
    # detectron2's layers make windows and their masks from sizes as Python numbers; an application
    # that needs a file takes timm's Swin
    promised = ()

    def test_training_follows_the_batch_and_its_statistics(self):
        pytest.skip("has no batch norm")

    def test_runs_in_bfloat16(self):
        pytest.skip("detectron2's masks of windows are float32; autocast is what works")

    def test_channels_last_gives_what_contiguous_gives_and_stays_channels_last(self):
        pytest.skip("computes on tokens, in detectron2's code; features are contiguous copies")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("swin_tiny", 27_520_698), ("swin_small", 48_838_602), ("swin_base", 86_745_016)],
)
def test_the_published_networks_have_their_parameters(name, parameters):
    # of the authors' classifiers (28,288,354 of Swin-T), less head and final norm, plus the norms
    # of four features: - 769,000 - 1,536 + 2,880
    with torch.device("meta"):
        network = build(*NAME, f"{KEY}.NAME", name)
    assert {p.device.type for p in network.parameters()} == {"meta"}
    assert sum(p.numel() for p in network.parameters()) == parameters


def small(**arguments):
    defaults = {"embed_dim": 8, "depths": (1, 2, 1), "num_heads": (1, 2, 4), "window_size": 4}
    features = ("res2", "res3", "res4")
    return Swin(**{**defaults, "drop_path": 0.0, "out_features": features, **arguments})


@pytest.mark.parametrize("style", ["dhlc", "ahlc"])
@pytest.mark.parametrize("prune", [0, 1])
@torch.no_grad()
def test_connections_to_blocks_are_added_behind_the_merging_of_patches(style, prune):
    torch.manual_seed(0)
    assistant, lead = small(), small()
    network = CompositeBackbone(
        copy.deepcopy([assistant, lead]), style=style, prune=prune, norm="", connect_to="blocks",
        zero_init=False,
    ).eval()  # fmt: skip
    image = torch.randn(2, 3, 70, 101)
    first = assistant.eval()(image)
    names = list(first)
    x = run_stage(assistant, "stem", image)
    expected = {}
    for level, name in enumerate(names):
        if level < prune:
            x = run_stage(assistant, name, x)
            expected[name] = first[name]
            continue
        x = enter_stage(lead, name, x)
        total = torch.zeros_like(x)
        for source in names[level:] if style == "dhlc" else [name]:
            feed = first[source]
            if source != name:
                conv = network.connections["1"][name][source].conv
                feed = F.conv2d(feed, conv.weight, conv.bias)
            total += F.interpolate(feed, size=x.shape[-2:], mode="nearest")
        x = run_stage(lead, name, x + total, entered=True)
        norm = getattr(lead, f"norm{level}")
        expected[name] = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    found = network(image)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], msg=name)


def test_connections_to_blocks_have_weights_where_widths_differ_and_start_at_zero():
    network = CompositeBackbone([small(), small()], prune=0, norm="", connect_to="blocks")
    shapes = {n: tuple(p.shape) for n, p in network.connections.named_parameters()}
    assert shapes == {
        f"1.{to}.{source}.conv.{kind}": shape
        for (i, to), (j, source) in itertools.combinations(enumerate(("res2", "res3", "res4")), 2)
        for kind, shape in (("weight", (8 << i, 8 << j, 1, 1)), ("bias", (8 << i,)))
    }
    assert not any(p.any() for p in network.connections.parameters())
    image = torch.randn(1, 3, 64, 64)
    sum(f.square().mean() for f in network(image).values()).backward()
    assert all(p.grad.any() for n, p in network.connections.named_parameters())


def test_an_assistant_keeps_the_norms_that_connections_take_and_can_be_supervised():
    network = CompositeBackbone([small(), small()], prune=0, norm="", connect_to="blocks").eval()
    assert network.is_complete
    with torch.no_grad():
        branches = network.branches(torch.randn(1, 3, 64, 64))
    assert [list(features) for features in branches] == [["res2", "res3", "res4"]] * 2


COMPOSITE = ("MODEL.BACKBONE.NAME", "build_composite_backbone", "MODEL.COMPOSITE.BOTTOM_UP")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*SMALL, f"{KEY}.NUM_HEADS", [1, 2, 3, 8]), "res4.*64 channels, which 3 heads do not"),
        ((*SMALL, f"{KEY}.OUT_FEATURES", ["p2"]), r"OUT_FEATURES is \['p2'\]; name some of"),
        ((*NAME, f"{KEY}.NAME", "swin_tin"), r'SWIN.NAME = "swin_tin".*swin_tiny'),
        ((*NAME, f"{KEY}.NAME", "swin_base", f"{KEY}.EMBED_DIM", 64), "EMBED_DIM is 64.*has 128"),
        (
            (*COMPOSITE, "build_resnet_backbone", "MODEL.COMPOSITE.CONNECT_TO", "blocks"),
            'builds a ResNet, whose stages have no merging.*choose "stage"',
        ),
        (
            (*SMALL[2:], *COMPOSITE, "build_swin_backbone", "MODEL.COMPOSITE.CONNECT_TO", "blocks",
             "MODEL.COMPOSITE.STYLE", "slc"),
            r'lead to "blocks".*style "slc"; choose one of \[\'stage\', \'blocks\'\]',
        ),
        (
            (*SMALL[2:], *COMPOSITE, "build_swin_backbone", "MODEL.COMPOSITE.CONNECT_TO", "blocks",
             f"{KEY}.OUT_FEATURES", ["res2", "res5"]),
            r"\['res3', 'res4'\] are not among those of the network",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_with_the_reason(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build(*overrides)


def test_channels_of_an_image_are_those_of_the_config():
    network = build_backbone(backbone_config(*SMALL), ShapeSpec(channels=4))
    assert network(torch.randn(1, 4, 32, 32))["res2"].shape == (1, 16, 8, 8)
