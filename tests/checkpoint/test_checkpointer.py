"""Weights: what is loaded equals what was trained elsewhere, nothing is executed, nothing lost."""

import os
import pickle

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import WeightsError


class Bomb:
    """Unpickling it runs code: it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def resnet(depth, **keys):
    from detectron2.layers import ShapeSpec

    opts = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", depth, "MODEL.RESNETS.NORM", "BN"]
    opts += ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]]
    opts += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64 if depth < 50 else 256]
    opts += [item for key, value in keys.items() for item in (f"MODEL.RESNETS.{key}", value)]
    model = nn.Module()
    model.backbone = build_resnet_backbone(load_config("", opts), ShapeSpec(channels=3))
    return model


def test_real_places365_weights_load(shared_data):
    model = resnet(18)
    DeepFuseCheckpointer(model).load(str(shared_data / "weights/resnet18_places365_fp16.pth"))
    weights = torch.load(shared_data / "weights/resnet18_places365_fp16.pth", weights_only=True)
    assert torch.equal(
        model.backbone.res5[1].conv2.weight, weights["layer4.1.conv2.weight"].float()
    )


def test_weights_of_another_depth_are_refused_instead_of_half_loaded(tmp_path):
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"80 tensors have no place in the model.*DEPTH"):
        DeepFuseCheckpointer(resnet(18)).load(str(tmp_path / "weights.pth"))


def test_torchvision_weights_in_a_model_of_other_image_statistics_are_refused(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "weights.pth")
    model = resnet(18)
    model.input_format = "BGR"
    model.register_buffer("pixel_std", torch.ones(3, 1, 1))
    with pytest.raises(WeightsError, match=r"INPUT.FORMAT is BGR, must be RGB; MODEL.PIXEL_STD is"):
        DeepFuseCheckpointer(model).load(str(tmp_path / "weights.pth"))


def test_torchvision_weights_with_the_stride_in_the_1x1_are_refused(tmp_path):
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="STRIDE_IN_1X1 is True, must be False"):
        DeepFuseCheckpointer(resnet(50)).load(str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_a_checkpoint_that_would_run_code_is_refused_by_name(tmp_path, suffix):
    path, made = tmp_path / f"bomb.{suffix}", tmp_path / "executed"
    content = {"model": {"weight": Bomb(made)}, "__author__": "x"}
    if suffix == "pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"(posix|os|nt)\.mkdir"):
        DeepFuseCheckpointer(nn.Linear(1, 1)).load(str(path))
    assert not made.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_model_zoo_pickle_of_arrays_loads(tmp_path, protocol):
    weights = {"weight": np.full((1, 2), 3.0, np.float32), "bias": np.ones(1, np.float32)}
    content = {"model": weights, "__author__": "somebody"}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    model = nn.Linear(2, 1)
    DeepFuseCheckpointer(model).load(str(tmp_path / "zoo.pkl"))
    assert model.weight.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_a_truncated_checkpoint_is_named(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    content = {"model": {"weight": torch.ones(100, 100)}}
    if suffix == "pth":
        torch.save(content, path)
    else:
        arrays = {"model": {"weight": np.ones((100, 100))}, "__author__": "x"}
        path.write_bytes(pickle.dumps(arrays))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match=rf"cut.{suffix} cannot be read .* damaged or was cut"):
        DeepFuseCheckpointer(nn.Linear(1, 1)).load(str(path))


def test_a_missing_file_is_named():
    with pytest.raises(WeightsError, match=r"nowhere.pth does not exist"):
        DeepFuseCheckpointer(nn.Linear(1, 1)).load("nowhere.pth")


def test_a_failed_save_leaves_the_last_checkpoint_and_no_rest(tmp_path, monkeypatch):
    model = nn.Linear(2, 1)
    checkpointer = DeepFuseCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0")
    good = (tmp_path / "model_0.pth").read_bytes()

    def full_disk(data, file):
        file.write(b"half a checkpoint")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpointer.save("model_0")
    assert (tmp_path / "model_0.pth").read_bytes() == good
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0.pth"]
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0.pth")
