"""One file for several networks of one kind: two scales, composites, below a neck or not."""

import copy
import logging

import pytest
import torch
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from torch import nn
from weights_models import IMAGENET, perturb_norms, resnet

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.checkpoint.matching import copies_in, match
from deepfuse_d2.checkpoint.report import describe
from deepfuse_d2.engine import load_config

COMPOSITE = ("MODEL.COMPOSITE.BOTTOM_UP", "build_resnet_backbone")
TWO_SCALE = ("MODEL.TWO_SCALE.BOTTOM_UP", "build_resnet_backbone")
NECK = ("MODEL.NECK.OUT_CHANNELS", 16)
BUILDERS = ("build_two_scale_backbone", "build_composite_backbone")


def model(builder, *opts):
    return resnet(18, *COMPOSITE, *TWO_SCALE, *opts, builder=builder, **IMAGENET)


def below_neck(builder, *opts):
    return model("build_neck_backbone", "MODEL.NECK.BOTTOM_UP", builder, *NECK, *opts)


def load(tmp_path, state, into, **options):
    torch.save({"model": state}, tmp_path / "weights.pth")
    DeepFuseCheckpointer(into, **options).load(str(tmp_path / "weights.pth"))
    return into


def networks(detector):
    wrapper = getattr(detector.backbone, "bottom_up", detector.backbone)
    if hasattr(detector.backbone, "half_scale"):
        wrapper = detector.backbone
    if hasattr(wrapper, "half_scale"):
        return [wrapper.bottom_up, wrapper.half_scale]
    return list(wrapper.backbones)


def check_filled(detector, one):
    """Every network has the tensors of `one`, as far as it has such."""
    for network in networks(detector):
        assert network.state_dict().keys() <= one.keys()
        for name, value in network.state_dict().items():
            if "num_batches_tracked" not in name:
                assert torch.equal(value, one[name]), name


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("make", [model, below_neck])
@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.bottom_up."])
def test_weights_of_one_network_fill_all_whatever_their_prefix(tmp_path, builder, make, prefix):
    one = perturb_norms(resnet(18)).backbone.state_dict()
    if (make, prefix) == (below_neck, "backbone."):
        pytest.skip("a detector without a neck is another one")
    if (make, builder, prefix) == (model, "build_composite_backbone", "backbone.bottom_up."):
        pytest.skip("a neck is not left out")
    filled = load(tmp_path, {f"{prefix}{n}": v for n, v in one.items()}, make(builder))
    check_filled(filled, one)


@pytest.mark.parametrize("builder", BUILDERS)
def test_imagenet_weights_fill_all_and_the_report_says_so(tmp_path, caplog, builder):
    torch.manual_seed(0)
    theirs = perturb_norms(torchvision.models.resnet18())
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    detector = below_neck(builder)
    with caplog.at_level(logging.INFO):
        DeepFuseCheckpointer(detector).load(str(tmp_path / "resnet18.pth"))
    assert "tensors fill" in caplog.text
    assert "places, in networks of one kind" in caplog.text
    assert "missing" not in caplog.text.split("new, start")[1]
    for network in networks(detector):
        assert torch.equal(network.res5[1].conv2.weight, theirs.layer4[1].conv2.weight)
        assert torch.equal(network.res5[0].shortcut.norm.bias, theirs.layer4[0].downsample[1].bias)


def test_timms_weights_fill_all(tmp_path):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet18")
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    detector = resnet(
        18, "MODEL.TIMM.NAME", "resnet18", "MODEL.COMPOSITE.BOTTOM_UP", "build_timm_backbone",
        builder="build_composite_backbone", **IMAGENET,
    )  # fmt: skip
    DeepFuseCheckpointer(detector).load(str(tmp_path / "resnet18.pth"))
    for network in networks(detector):
        assert torch.equal(network.body.layer4[0].conv1.weight, theirs.layer4[0].conv1.weight)


@pytest.mark.parametrize("builder", BUILDERS)
def test_weights_of_several_networks_keep_apart(tmp_path, builder):
    first, second = below_neck(builder), below_neck(builder)
    state = copy.deepcopy(first.state_dict())
    load(tmp_path, state, second)
    for name, value in second.state_dict().items():
        assert torch.equal(value, state[name]), name
    found = match(state, second.state_dict(), copies=copies_in(second))
    assert not found.repeated
    assert "networks of one kind" not in describe(found)


def test_a_third_network_starts_as_the_first(tmp_path):
    two = below_neck("build_composite_backbone", "MODEL.COMPOSITE.PRUNE", 0)
    three = below_neck(
        "build_composite_backbone",
        "MODEL.COMPOSITE.PRUNE", 0, "MODEL.COMPOSITE.NUM_BACKBONES", 3,
    )  # fmt: skip
    load(tmp_path, two.state_dict(), three)
    a, b, c = networks(three)
    assert torch.equal(a.res4[0].conv1.weight, c.res4[0].conv1.weight)
    assert not torch.equal(a.res4[0].conv1.weight, b.res4[0].conv1.weight)


@pytest.mark.parametrize("shared", [False, True])
def test_a_mask_rcnn_keeps_its_function_bit_for_bit_in_a_composite(
    repository, tiny_opts, tmp_path, shared
):
    config = str(repository / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml")
    torch.manual_seed(0)
    plain = perturb_norms(build_model(load_config(config, tiny_opts))).eval()
    opts = ("MODEL.NECK.BOTTOM_UP", "build_composite_backbone", *COMPOSITE)
    opts += ("MODEL.COMPOSITE.SHARE_WEIGHTS", shared)
    composite = build_model(load_config(config, [*tiny_opts, *opts])).eval()
    load(tmp_path, plain.state_dict(), composite)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 96)
        for name, feature in plain.backbone(x).items():
            assert torch.equal(composite.backbone(x)[name], feature), name
        ours, theirs = (m([{"image": image}])[0]["instances"] for m in (composite, plain))
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.pred_masks, theirs.pred_masks)
    found = match(plain.state_dict(), composite.state_dict(), copies=copies_in(composite))
    assert (found.missing, found.unexpected, found.wrong_shape) == ([], [], [])
    assert all(".connections." in name for name in found.new)
    assert found.fraction == 1.0


def test_a_neck_is_no_wrapper_of_networks_of_one_kind():
    detector = below_neck("build_composite_backbone")
    assert copies_in(detector) == {
        "backbone.bottom_up.": (
            "backbone.bottom_up.backbones.0.",
            "backbone.bottom_up.backbones.1.",
        )
    }
    assert copies_in(nn.Linear(1, 1)) == {}
    cfg = load_config("", ["MODEL.DEVICE", "cpu"])
    assert copies_in(build_backbone(cfg, ShapeSpec(channels=3))) == {}
