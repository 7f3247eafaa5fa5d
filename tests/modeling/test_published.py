"""Published networks by name: one key, the same network as by its single keys."""

import pytest
import torch
from backbone_suite import build

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.backbone import dla, fishnet, res2net
from deepfuse_d2.modeling.backbone.fishnet_backbone import FishNetBackbone

# argument -> key, written out here once more, with what the paper says of all published weights
RES2NET_KEYS = {
    "depth": "MODEL.RESNETS.DEPTH",
    "scale": "MODEL.RES2NET.SCALE",
    "base_width": "MODEL.RES2NET.BASE_WIDTH",
    "num_groups": "MODEL.RESNETS.NUM_GROUPS",
    "deep_stem": "MODEL.RES2NET.DEEP_STEM",
    "avg_down": "MODEL.RES2NET.AVG_DOWN",
}
STRIDE = ("MODEL.RESNETS.STRIDE_IN_1X1", False)


def network(builder, *opts):
    with torch.device("meta"):
        return build("MODEL.BACKBONE.NAME", builder, *opts)


def same(first, second):
    """Of the same modules and hyperparameters, and tensors of the same names and shapes."""
    shapes = [{n: v.shape for n, v in m.state_dict().items()} for m in (first, second)]
    return str(first) == str(second) and shapes[0] == shapes[1]


@pytest.mark.parametrize("name", list(res2net.VARIANTS))
def test_a_res2net_by_name_is_the_res2net_of_its_keys(name):
    variant = res2net.VARIANTS[name]
    opts = [word for argument, value in variant.items() for word in (RES2NET_KEYS[argument], value)]
    by_keys = network("build_res2net_backbone", *opts, *STRIDE)
    by_name = network("build_res2net_backbone", "MODEL.RES2NET.NAME", name)
    assert same(by_name, by_keys)
    # of a yaml that leaves detectron2's True
    opts = ("MODEL.RES2NET.NAME", name, "MODEL.RESNETS.STRIDE_IN_1X1", True)
    assert same(by_keys, network("build_res2net_backbone", *opts))


@pytest.mark.parametrize("name", list(dla.VARIANTS))
def test_a_dla_by_name_is_the_dla_of_its_keys(name):
    keys = {"scale": 4, "base_width": 28, "num_groups": 1, **dla.VARIANTS[name]}
    opts = [word for argument, value in keys.items() for word in (RES2NET_KEYS[argument], value)]
    by_keys = network("build_dla_backbone", *opts, *STRIDE)
    assert same(network("build_dla_backbone", "MODEL.DLA.NAME", name), by_keys)


@pytest.mark.parametrize("depth", list(fishnet.VARIANTS))
def test_a_fishnet_is_named_by_its_depth(depth):
    with torch.device("meta"):
        expected = FishNetBackbone(*fishnet.VARIANTS[depth], norm="FrozenBN")
    assert same(network("build_fishnet_backbone", "MODEL.FISHNET.DEPTH", depth), expected)


def test_what_a_name_does_not_decide_stays_with_its_keys():
    opts = ("MODEL.RES2NET.NAME", "res2net50_26w_4s", "MODEL.RES2NET.POOL_STRIDE_1", False)
    named = network("build_res2net_backbone", *opts, "MODEL.RESNETS.OUT_FEATURES", ["res3"])
    assert list(named.output_shape()) == ["res3"]
    assert not same(named, network("build_res2net_backbone", *opts[:2]))


@pytest.mark.parametrize(
    ("builder", "opts", "message"),
    [
        (
            "build_res2net_backbone",
            ("MODEL.RES2NET.NAME", "res2net50"),
            'MODEL.RES2NET.NAME = "res2net50" is unknown; choose one of: res2net101_26w_4s, ',
        ),
        (
            "build_res2net_backbone",
            ("MODEL.RES2NET.NAME", "res2net50_26w_6s", "MODEL.RES2NET.SCALE", 8),
            r'RES2NET.SCALE is 8, but MODEL.RES2NET.NAME = "res2net50_26w_6s" has 6. Leave it out',
        ),
        (
            "build_res2net_backbone",
            ("MODEL.RES2NET.NAME", "res2net101d", "MODEL.RESNETS.DEPTH", 18),
            'RESNETS.DEPTH is 18, but MODEL.RES2NET.NAME = "res2net101d" has 101',
        ),
        (
            "build_dla_backbone",
            ("MODEL.DLA.NAME", "dla34"),
            'DLA.NAME = "dla34" is unknown; choose one of: dla60, dla60_res2net, dla60_res2next, ',
        ),
        (
            "build_fishnet_backbone",
            ("MODEL.FISHNET.DEPTH", 50),
            r"MODEL.FISHNET.DEPTH = 50 is unknown; choose one of \[99, 150, 201\]",
        ),
    ],
)
def test_a_wrong_name_lists_the_known_ones_and_a_contradiction_is_named(builder, opts, message):
    with pytest.raises(ConfigError, match=message):
        network(builder, *opts)
