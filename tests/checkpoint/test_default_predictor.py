"""detectron2's DefaultPredictor with weights of ours: what the README shows, and why."""

import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from deepfuse_d2 import get_config
from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.errors import WeightsError
from deepfuse_d2.inference import Predictor


class Bomb:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def cfg(tiny_opts):
    return get_config("MiniCity/mask_rcnn_R_18_FPN_quick", tiny_opts)


def test_weights_that_our_checkpointer_loads_into_it_are_checked_and_give_what_ours_gives(
    cfg, tmp_path
):
    model = build_model(cfg).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    default = DefaultPredictor(cfg)
    DeepFuseCheckpointer(default.model).load(str(tmp_path / "weights.pth"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, default.model.state_dict()[name]), name
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    theirs = default(image)["instances"]
    (ours,) = Predictor(cfg, str(tmp_path / "weights.pth"))([image])
    assert theirs.image_size == ours.image_size == (64, 96)
    assert len(theirs) == len(ours)


def test_a_pickle_that_detectron2_would_execute_is_refused_by_our_checkpointer(cfg, tmp_path):
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps({"model": Bomb(tmp_path / "executed")}))
    default = DefaultPredictor(cfg)
    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.mkdir"):
        DeepFuseCheckpointer(default.model).load(str(tmp_path / "bomb.pkl"))
    assert not (tmp_path / "executed").exists()
    cfg.MODEL.WEIGHTS = str(tmp_path / "bomb.pkl")
    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.mkdir"):
        Predictor(cfg)
    assert not (tmp_path / "executed").exists()
