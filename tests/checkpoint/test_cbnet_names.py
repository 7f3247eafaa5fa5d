"""Public CBNet and CBNetV2 detectors: every tensor finds its place."""

import itertools

import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from weights_models import IMAGENET, resnet

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.checkpoint.reading import read_weights
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.errors import WeightsError

CHANNELS = {50: (64, 256, 512, 1024, 2048), 18: (64, 64, 128, 256, 512)}
COMPOSITE = (
    "MODEL.NECK.BOTTOM_UP", "build_composite_backbone",
    "MODEL.COMPOSITE.BOTTOM_UP", "build_resnet_backbone",
)  # fmt: skip
V1 = ("MODEL.COMPOSITE.STYLE", "ahlc", "MODEL.COMPOSITE.PRUNE", 0)


def composite(depth, *opts):
    return resnet(depth, *COMPOSITE, *opts, builder="build_composite_backbone", **IMAGENET)


def norm(name, channels):
    return {
        **{f"{name}.{part}": torch.randn(channels) for part in ("weight", "bias", "running_mean")},
        f"{name}.running_var": torch.rand(channels),
        f"{name}.num_batches_tracked": torch.tensor(0),
    }


def single(depth):
    theirs = getattr(torchvision.models, f"resnet{depth}")().state_dict()
    return {n: torch.randn(v.shape) for n, v in theirs.items() if not n.startswith("fc.")}


def version_1(depth, number):
    """Names as the sheet of the public files has them."""
    state = single(depth)
    for assistant in ("second", "third")[: number - 1]:
        state |= {f"{assistant}_{n}": v for n, v in single(depth).items() if "layer" in n}
        for level, (to, source) in enumerate(itertools.pairwise(CHANNELS[depth]), 1):
            state[f"eb_{assistant}_conv{level}.weight"] = torch.randn(to, source, 1, 1)
            state |= norm(f"bneb_{assistant}_bn{level}", to)
    return state


def version_2(depth, prune):
    lead = {n: v for n, v in single(depth).items() if not n.startswith("conv1")}
    for stage in range(1, prune + 1):
        lead = {n: v for n, v in lead.items() if not n.startswith(f"layer{stage}")}
    state = {f"cb_modules.0.{n}": v for n, v in single(depth).items()}
    state |= {f"cb_modules.1.{n}": v for n, v in lead.items()}
    for i, j in itertools.product(range(prune, 4), range(4)):
        if i + j + 1 <= 4:
            to, source = CHANNELS[depth][i], CHANNELS[depth][i + j + 1]
            state[f"cb_linears.{i}.{j}.0.weight"] = torch.randn(to, source, 1, 1)
            state |= norm(f"cb_linears.{i}.{j}.1", to)
    return state


def load(tmp_path, state, model):
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "cbnet.pth")
    DeepFuseCheckpointer(model).load(str(tmp_path / "cbnet.pth"))
    return model


def check_all_filled(model, state):
    """As many numbers in the model as in the file, and no tensor twice."""
    ours = [v for n, v in model.state_dict().items() if "num_batches" not in n]
    theirs = [v for n, v in state.items() if "num_batches" not in n and "modules.1.bn1" not in n]
    assert len(ours) == len(theirs)
    sums = [sorted(v.double().sum().item() for v in values) for values in (ours, theirs)]
    assert sums[0] == sums[1]


@pytest.mark.parametrize(("number", "entries"), [(2, 654), (3, 990)])
def test_a_backbone_of_version_1_fills_a_composite(tmp_path, number, entries):
    state = version_1(50, number)
    assert len(state) == entries
    model = load(tmp_path, state, composite(50, *V1, "MODEL.COMPOSITE.NUM_BACKBONES", number))
    check_all_filled(model, state)
    network = model.backbone
    lead, last_assistant = network.backbones[-1], network.backbones[-2]
    assert torch.equal(network.backbones[0].stem.conv1.weight, state["conv1.weight"])
    assert torch.equal(lead.res3[0].shortcut.weight, state["layer2.0.downsample.0.weight"])
    second = state["second_layer4.2.bn3.bias"]
    assert torch.equal(last_assistant.res5[2].conv3.norm.bias, second)
    into_lead = network.connections[str(number - 1)]["res4"]["res4"].conv
    assert torch.equal(into_lead.weight, state["eb_second_conv3.weight"])
    assert torch.equal(into_lead.norm.running_mean, state["bneb_second_bn3.running_mean"])
    if number == 3:
        third = state["third_layer1.0.conv1.weight"]
        assert torch.equal(network.backbones[0].res2[0].conv1.weight, third)


@pytest.mark.parametrize(("prune", "entries"), [(0, 695), (1, 611), (2, 515)])
def test_a_backbone_of_version_2_fills_a_composite(tmp_path, prune, entries):
    state = version_2(50, prune)
    assert len(state) == entries
    named = {f"backbone.{name}": value for name, value in state.items()}
    model = load(tmp_path, named, composite(50, "MODEL.COMPOSITE.PRUNE", prune))
    check_all_filled(model, state)
    connection = model.backbone.connections["1"]["res4"]["res5"].conv
    assert torch.equal(connection.weight, state["cb_linears.2.1.0.weight"])
    assert torch.equal(connection.norm.weight, state["cb_linears.2.1.1.weight"])
    lead = model.backbone.backbones[1]
    assert torch.equal(lead.res5[0].conv1.weight, state["cb_modules.1.layer4.0.conv1.weight"])


def test_res2nets_of_version_2_are_renamed_as_res2nets(tmp_path):
    opts = (
        "MODEL.COMPOSITE.BOTTOM_UP", "build_res2net_backbone", "MODEL.RES2NET.DEEP_STEM", True,
        "MODEL.RES2NET.AVG_DOWN", True, "MODEL.RESNETS.DEPTH", 26,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 256,
    )  # fmt: skip
    model = composite(50, *opts)
    state = {}
    for name, value in model.backbone.state_dict().items():
        value = torch.randn(value.shape)
        if name.startswith("connections."):
            _, _, to, source, _, *norm_and_last = name.split(".")
            i, j = int(to[3]) - 2, int(source[3]) - int(to[3])
            place = "1" if len(norm_and_last) == 2 else "0"
            state[f"cb_linears.{i}.{j}.{place}.{norm_and_last[-1]}"] = value
            continue
        theirs = name.replace("backbones.", "cb_modules.").replace("conv1.norm", "bn1")
        theirs = theirs.replace("conv3.norm", "bn3").replace("shortcut.norm", "downsample.2")
        theirs = theirs.replace("shortcut", "downsample.1")
        for stage in range(2, 6):
            theirs = theirs.replace(f".res{stage}.", f".layer{stage - 1}.")
        for i in range(3):
            theirs = theirs.replace(f"convs.{i}.norm", f"bns.{i}")
            theirs = theirs.replace(f"stem.conv1_{i + 1}.norm", f"stem.{3 * i + 1}")
            theirs = theirs.replace(f"stem.conv1_{i + 1}", f"stem.{3 * i}")
        state[f"backbone.{theirs}"] = value
    check_all_filled(load(tmp_path, state, model), state)


def detector(repository, tiny_opts, *opts):
    config = str(repository / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml")
    fixed = ("MODEL.RESNETS.STRIDE_IN_1X1", False, "INPUT.FORMAT", "RGB")
    means = ("MODEL.PIXEL_MEAN", list(IMAGENET["pixel_mean"]))
    stds = ("MODEL.PIXEL_STD", list(IMAGENET["pixel_std"]))
    return build_model(load_config(config, [*tiny_opts, *COMPOSITE, *fixed, *means, *stds, *opts]))


def heads(model, version):
    """mmdetection's names and order of classes for random heads of the shapes of `model`."""
    state = {}
    roi = "" if version == 1 else "roi_head."
    shapes = {n: v.shape for n, v in model.state_dict().items()}
    for level in range(2, 6):
        for ours, theirs in (("lateral", "lateral_convs"), ("output", "fpn_convs")):
            for last in ("weight", "bias"):
                shape = shapes[f"backbone.fpn_{ours}{level}.{last}"]
                state[f"neck.{theirs}.{level - 2}.conv.{last}"] = torch.randn(shape)
    background = int(version == 1)
    pairs = {
        "proposal_generator.rpn_head.conv": ("rpn_head.rpn_conv", 0),
        "proposal_generator.rpn_head.objectness_logits": ("rpn_head.rpn_cls", 0),
        "proposal_generator.rpn_head.anchor_deltas": ("rpn_head.rpn_reg", 0),
        "roi_heads.box_head.fc1": (f"{roi}bbox_head.shared_fcs.0", 0),
        "roi_heads.box_head.fc2": (f"{roi}bbox_head.shared_fcs.1", 0),
        "roi_heads.box_predictor.cls_score": (f"{roi}bbox_head.fc_cls", 0),
        "roi_heads.box_predictor.bbox_pred": (f"{roi}bbox_head.fc_reg", 4 * background),
        "roi_heads.mask_head.deconv": (f"{roi}mask_head.upsample", 0),
        "roi_heads.mask_head.predictor": (f"{roi}mask_head.conv_logits", background),
    }
    for name in shapes:
        if "mask_fcn" in name and name.endswith("weight"):
            number = int(name.split("mask_fcn")[1][0])
            ours = name.removesuffix(".weight")
            pairs[ours] = (f"{roi}mask_head.convs.{number - 1}.conv", 0)
    for ours, (theirs, more) in pairs.items():
        for last in ("weight", "bias"):
            if f"{ours}.{last}" in shapes:
                rows, *rest = shapes[f"{ours}.{last}"]
                state[f"{theirs}.{last}"] = torch.randn(rows + more, *rest)
    return state


@pytest.mark.parametrize("version", [1, 2])
def test_a_whole_detector_converts(repository, tiny_opts, tmp_path, version):
    opts = V1 if version == 1 else ()
    model = detector(repository, tiny_opts, *opts)
    backbone = version_1(18, 2) if version == 1 else version_2(18, 1)
    state = {f"backbone.{name}": value for name, value in backbone.items()}
    own = heads(model, version)
    load(tmp_path, state | own, model)
    head = model.roi_heads.box_predictor
    roi = "" if version == 1 else "roi_head."
    scores, boxes = own[f"{roi}bbox_head.fc_cls.weight"], own[f"{roi}bbox_head.fc_reg.bias"]
    masks = own[f"{roi}mask_head.conv_logits.weight"]
    if version == 1:
        scores, boxes, masks = scores.roll(-1, 0), boxes[4:], masks[1:]
    assert torch.equal(head.cls_score.weight, scores)
    assert torch.equal(head.bbox_pred.bias, boxes)
    assert torch.equal(model.roi_heads.mask_head.predictor.weight, masks)
    read = read_weights(tmp_path / "cbnet.pth")
    assert read.origin == ("CBNet" if version == 1 else "CBNetV2")
    ours = {n for n in model.state_dict() if "num_batches" not in n and "anchor" not in n}
    full = {
        n if n.split(".")[0] in ("backbone", "roi_heads", "proposal_generator")
        else f"backbone.bottom_up.{n}"
        for n in read.state
    }  # fmt: skip
    assert ours <= full | {n for n in ours if "anchor" in n}
    assert full <= set(model.state_dict())


def test_a_file_pruned_otherwise_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"have no place in the model.*backbones.1.res2"):
        load(tmp_path, version_2(50, 0), composite(50))
