"""The suite of DeepFuseSemSegHead, its figure, and where it starts."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from sem_seg_head_suite import (
    SHAPES,
    SemSegHeadSuite,
    build_head,
    count,
    random_features,
    randomize,
)

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.layers import MERGES, UNITS
from deepfuse_d2.modeling.sem_seg import DeepFuseSemSegHead

NAME = ("MODEL.SEM_SEG_HEAD.NAME", "DeepFuseSemSegHead", "MODEL.SEM_SEG_HEAD.NORM", "")
SIMPLE = ("MODEL.DEEPFUSE.DEPTH", 0, "MODEL.DEEPFUSE.MERGE", "sum")


class TestDeepFuseSemSegHead(SemSegHeadSuite):
    overrides = (*NAME, "MODEL.DEEPFUSE.DEPTH", 2, "MODEL.DEEPFUSE.UPSAMPLE", "bilinear")


class TestGatedDeepFuseSemSegHead(SemSegHeadSuite):
    overrides = (
        *NAME, "MODEL.DEEPFUSE.MERGE", "gated", "MODEL.DEEPFUSE.UNIT", "residual",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.NORM", "GN",
        "MODEL.DEEPFUSE.NORM", "GN", "MODEL.DEEPFUSE.ZERO_INIT", False,
    )  # fmt: skip


def simple_fusion(head, features):
    """Laterals, sums from the coarsest level down, a sum of all levels, a classifier."""
    x2, x3, x4, x5 = (
        F.conv2d(features[name], lateral.weight, lateral.bias)
        for name, lateral in zip(SHAPES, head.laterals, strict=True)
    )

    def up(x, like):
        return F.interpolate(x, size=like.shape[-2:], mode="nearest")

    x4 = x4 + up(x5, x4)
    x3 = x3 + up(x4, x3)
    x2 = x2 + up(x3, x2)
    total = x2 + up(x3, x2) + up(x4, x2) + up(x5, x2)
    return F.conv2d(total, head.classifier.weight, head.classifier.bias)


def test_depth_0_is_simple_fusion():
    head = randomize(build_head(*NAME, *SIMPLE)).double().eval()
    features = random_features((70, 101), dtype=torch.float64)
    expected = simple_fusion(head, features)
    torch.testing.assert_close(head(features)["sem_seg"], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("merge", list(MERGES))
@pytest.mark.parametrize("unit", list(UNITS))
def test_with_zero_init_it_starts_as_simple_fusion_and_leaves_it_with_the_first_step(merge, unit):
    simple = randomize(build_head(*NAME, *SIMPLE)).eval()
    head = build_head(*NAME, "MODEL.DEEPFUSE.MERGE", merge, "MODEL.DEEPFUSE.UNIT", unit).eval()
    missing, unexpected = head.load_state_dict(simple.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith(("top_down.", "gather.")) for name in missing)
    features = random_features()
    expected, found = simple(features)["sem_seg"], head(features)["sem_seg"]
    assert torch.equal(found, expected)
    added = [p for n, p in head.named_parameters() if n.startswith(("top_down.", "gather."))]
    optimizer = torch.optim.SGD(added, lr=0.1)
    found.square().mean().backward()
    optimizer.step()
    assert not torch.equal(head(features)["sem_seg"], expected)


def test_every_fusion_is_the_deepfuse_operation_of_the_blocks():
    head = randomize(build_head(*NAME, "MODEL.DEEPFUSE.DEPTH", 2)).double().eval()
    features = random_features(dtype=torch.float64)
    with torch.no_grad():
        y2, y3, y4, y5 = (
            lateral(features[name]) for name, lateral in zip(SHAPES, head.laterals, strict=True)
        )
        y4 = head.top_down[2](y4, [y5])
        y3 = head.top_down[1](y3, [y4])
        y2 = head.top_down[0](y2, [y3])
        expected = head.classifier(head.gather(y2, [y3, y4, y5]))
        assert torch.equal(head(features)["sem_seg"], expected)


def test_depth_adds_parameters_to_each_of_the_four_fusions():
    counts = [count(build_head(*NAME, "MODEL.DEEPFUSE.DEPTH", depth)) for depth in (1, 2, 3)]
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0
    assert (counts[1] - counts[0]) % 4 == 0


@pytest.mark.parametrize(
    "shapes",
    [
        {"res5": ShapeSpec(channels=8, stride=32)},
        {"a": ShapeSpec(channels=8, stride=16), "b": ShapeSpec(channels=8, stride=16)},
    ],
)
def test_features_that_leave_nothing_to_fuse_are_refused(shapes):
    with pytest.raises(ConfigError, match=r"it needs two or more features, each of another str"):
        DeepFuseSemSegHead(shapes, num_classes=3, width=16)


def test_an_unknown_merge_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"merge.*mean.*gated"):
        build_head(*NAME, "MODEL.DEEPFUSE.MERGE", "mean")
