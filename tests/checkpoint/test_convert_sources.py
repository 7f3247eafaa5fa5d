"""Public weights: recognised, renamed, and giving the features of the library they come from."""

import pickle

import numpy as np
import pytest
import timm
import torch
import torchvision
from weights_models import IMAGENET, Detector, perturb_norms, resnet

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.checkpoint.reading import read_weights
from deepfuse_d2.checkpoint.sources.table import SOURCES, recognise
from deepfuse_d2.errors import WeightsError

FEATURES = ["res2", "res3", "res4", "res5"]
RES2NET = ("MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.RESNETS.NORM", "BN")


def timm_features(model):
    """Of any version: forward_intermediates is new, of DLA newer than of others."""

    def features(image):
        maps = []
        modules = [model.get_submodule(info["module"]) for info in model.feature_info[-4:]]
        handles = [m.register_forward_hook(lambda *call: maps.append(call[-1])) for m in modules]
        model.forward_features(image)
        for handle in handles:
            handle.remove()
        return maps

    return features


def torchvision_features(model):
    def features(image):
        x = model.maxpool(model.relu(model.bn1(model.conv1(image))))
        maps = []
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    return features


# library, model, its features -> name of the source, our model
CASES = {
    "torchvision resnet18": (
        lambda: torchvision.models.resnet18(weights=None), torchvision_features,
        "torchvision or timm ResNet", lambda: resnet(18, **IMAGENET),
    ),
    "torchvision resnext50": (
        lambda: torchvision.models.resnext50_32x4d(weights=None), torchvision_features,
        "torchvision or timm ResNet",
        lambda: resnet(50, "MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    ),
    "timm resnet50": (
        lambda: timm.create_model("resnet50"), timm_features,
        "torchvision or timm ResNet", lambda: resnet(50, **IMAGENET),
    ),
    "timm resnet50d": (
        lambda: timm.create_model("resnet50d"), timm_features, "timm ResNet-D",
        lambda: Detector(
            "build_res2net_backbone", *RES2NET,
            "MODEL.RES2NET.SCALE", 1, "MODEL.RES2NET.BASE_WIDTH", 64,
            "MODEL.RES2NET.DEEP_STEM", True, "MODEL.RES2NET.AVG_DOWN", True,
            "MODEL.RESNETS.OUT_FEATURES", FEATURES, **IMAGENET,
        ),
    ),
    "timm dla60": (
        lambda: timm.create_model("dla60"), timm_features, "DLA",
        lambda: Detector(
            "build_dla_backbone", *RES2NET,
            "MODEL.RES2NET.SCALE", 1, "MODEL.RES2NET.BASE_WIDTH", 64,
            "MODEL.RESNETS.OUT_FEATURES", FEATURES, **IMAGENET,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_weights_give_the_features_of_their_library(tmp_path, case):
    create, features_of, source, ours = CASES[case]
    theirs = perturb_norms(create()).eval()
    torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, tmp_path / "weights.tar")
    assert read_weights(tmp_path / "weights.tar").origin == source
    model = ours().eval()
    DeepFuseCheckpointer(model, min_match=1.0).load(str(tmp_path / "weights.tar"))

    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = features_of(theirs.double())(image)
        features = model.double().backbone(image)
    for name, feature in zip(FEATURES, expected, strict=True):
        torch.testing.assert_close(features[name], feature, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [
        (None, "module."),
        ("model", ""),
        ("state_dict", "module.backbone."),
        ("model_state", "model."),
    ],
)
def test_wrappers_and_prefixes_of_training_scripts_are_taken_off(tmp_path, wrapper, prefix):
    theirs = torchvision.models.resnet18(weights=None)
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    outside = prefix.replace("backbone.", "") + "neck.conv.weight"
    if "backbone" in prefix:
        state[outside] = torch.ones(1)
    content = {wrapper: state, "epoch": 7} if wrapper else state
    torch.save(content, tmp_path / "weights.pth")
    weights = read_weights(tmp_path / "weights.pth")
    assert weights.origin == "torchvision or timm ResNet"
    assert torch.equal(weights.state["res4.1.conv2.weight"], theirs.layer3[1].conv2.weight)
    assert weights.unused == ([outside] if "backbone" in prefix else [])
    assert weights.rest == ({"epoch": 7} if wrapper else {})


def caffe2_names(model):
    """A ResNet-18 of detectron2 in the names of Caffe2, statistics folded into the affine."""
    renamed = {"fc1000_w": np.zeros((10, 512), np.float32), "conv1_w_momentum": np.ones(1)}
    for name, tensor in model.backbone.state_dict().items():
        if name.endswith(("num_batches_tracked", "running_mean", "running_var")):
            continue
        name = name.replace("stem.conv1.norm", "res_conv1_bn").replace("stem.conv1", "conv1")
        for number, letter in enumerate("abc", start=1):
            name = name.replace(f".conv{number}.", f".branch2{letter}.")
        name = name.replace(".shortcut.", ".branch1.").replace(".norm.", "_bn.")
        is_norm = "_bn." in name
        name = name.replace(".weight", "_s" if is_norm else "_w").replace(".bias", "_b")
        renamed[name.replace(".", "_")] = tensor.numpy()
    return renamed


def test_caffe2_weights_of_the_model_zoo_load_whole(tmp_path):
    bgr = {"input_format": "BGR", "pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (1.0,) * 3}
    theirs = resnet(18)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.normal_()
            module.running_var.fill_(1 - 1e-5)
    content = {"blobs": caffe2_names(theirs)}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content, protocol=2))
    ours = resnet(18, **bgr)
    DeepFuseCheckpointer(ours, min_match=1.0).load(str(tmp_path / "R-18.pkl"))
    for name, tensor in ours.backbone.state_dict().items():
        assert torch.equal(tensor, theirs.backbone.state_dict()[name]), name
    with pytest.raises(WeightsError, match=r"Caffe2 ResNet .*MODEL.PIXEL_STD is \[58.395"):
        DeepFuseCheckpointer(resnet(18, **IMAGENET)).load(str(tmp_path / "R-18.pkl"))


@pytest.mark.parametrize(
    ("names", "shape", "source", "std", "stride"),
    [
        (["res2_0_branch2a_bn_s"], (64, 64, 3, 3), "Caffe2 ResNet", (1.0,) * 3, True),
        (
            ["res2_0_branch2a_gn_s"], (64, 64, 3, 3), "Caffe2 ResNet with GroupNorm",
            (1.0,) * 3, False,
        ),
        (
            ["res4_22_branch2a_w"], (256, 8, 3, 3), "Caffe2 ResNeXt-101 32x8d",
            (57.375, 57.12, 58.395), False,
        ),
        (
            ["res4_22_branch2a_w", "res4_23_branch2a_w"], (256, 8, 3, 3), "Caffe2 ResNeXt",
            None, None,
        ),
    ],
)  # fmt: skip
def test_caffe2_networks_of_other_images_are_told_apart(names, shape, source, std, stride):
    state = {n: torch.ones(1) for n in ["conv1_w", "res2_0_branch2a_w", *names]}
    found = recognise({**state, "res2_0_branch2b_w": torch.zeros(shape)})
    assert (found.name, found.pixel_std, found.stride_in_1x1) == (source, std, stride)
    assert found.format == "BGR"


def test_torchvision_weights_out_of_the_model_zoo_keep_their_images(tmp_path):
    theirs = resnet(18)
    state = {k: v.numpy() for k, v in theirs.backbone.state_dict().items()}
    state["stem.fc.weight"] = np.zeros((10, 512), np.float32)
    content = {"model": state, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content))
    DeepFuseCheckpointer(resnet(18, **IMAGENET), min_match=1.0).load(str(tmp_path / "R-18.pkl"))
    with pytest.raises(WeightsError, match=r"INPUT.FORMAT is BGR, must be RGB"):
        DeepFuseCheckpointer(resnet(18, **{**IMAGENET, "input_format": "BGR"})).load(
            str(tmp_path / "R-18.pkl")
        )


def test_every_source_is_recognised_by_itself_and_named_once():
    names = [source.name for source in SOURCES]
    assert len(set(names)) == len(names)
    assert recognise({"backbone.bottom_up.stem.conv1.weight": torch.ones(1)}) is None
    for model in ("resnet18", "resnet50", "resnext50_32x4d"):
        state = getattr(torchvision.models, model)(weights=None).state_dict()
        assert [s.name for s in SOURCES if s.recognises(state)] == ["torchvision or timm ResNet"]


def test_a_resnet_with_blocks_the_model_lacks_is_refused(tmp_path):
    torch.save(timm.create_model("seresnet50").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"64 tensors have no place .*res2\.0\.se\.fc1\.weight"):
        DeepFuseCheckpointer(resnet(50)).load(str(tmp_path / "weights.pth"))


def test_timms_backbone_takes_timms_weights_as_they_are(tmp_path):
    theirs = perturb_norms(timm.create_model("resnet18"))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = Detector("build_timm_backbone", "MODEL.TIMM.NAME", "resnet18", input_format="BGR")
    DeepFuseCheckpointer(model, min_match=1.0).load(str(tmp_path / "weights.pth"))
    body = model.backbone.body.state_dict()
    assert torch.equal(body["layer2.0.bn1.running_mean"], theirs.layer2[0].bn1.running_mean)
