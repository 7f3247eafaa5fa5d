"""Drawing commands load weights as training does: nothing in the file is executed."""

import os
import pickle

import numpy as np
import pytest
import torch

from deepfuse_d2.engine import SafePredictor, Trainer, load_config
from deepfuse_d2.errors import WeightsError


class Bomb:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_predictor_gives_what_its_model_gives_and_runs_no_code(tmp_path, repository, tiny_opts):
    config = str(repository / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml")
    cfg = load_config(config, [*tiny_opts, "MODEL.WEIGHTS", str(tmp_path / "weights.pth")])
    model = Trainer.build_model(cfg).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    predictor = SafePredictor(cfg)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, predictor.model.state_dict()[name]), name
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    assert predictor(image)["instances"].image_size == (64, 96)

    cfg.MODEL.WEIGHTS = str(tmp_path / "bomb.pkl")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps({"model": Bomb(tmp_path / "executed")}))
    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.mkdir"):
        SafePredictor(cfg)
    assert not (tmp_path / "executed").exists()
