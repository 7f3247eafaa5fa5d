"""deepfuse compare on models of labels, several at a time."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from deepfuse_d2.engine import load_config

CONFIGS = [f"configs/MiniCity/sem_seg_R_18_{name}.yaml" for name in ("SemSegFPN_quick", "GCN")]


@pytest.fixture(scope="module")
def models(tmp_path_factory, repository):
    """Arguments for two models of random weights."""
    folder = tmp_path_factory.mktemp("weights")
    arguments = []
    for number, config in enumerate(CONFIGS):
        model = build_model(load_config(str(repository / config), ["MODEL.DEVICE", "cpu"]))
        torch.save({"model": model.state_dict()}, folder / f"{number}.pth")
        arguments += ["--config-file", config, "--weights", str(folder / f"{number}.pth")]
    return arguments


@pytest.fixture
def run(repository, tiny_minicity):
    def command(*arguments):
        environment = {**os.environ, "DETECTRON2_DATASETS": str(tiny_minicity)}
        return subprocess.run(
            [sys.executable, "-W", "ignore", "tools/compare_predictions.py", *map(str, arguments)],
            cwd=repository, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return command


def test_each_model_of_labels_is_a_column_beside_the_ground_truth(run, models, tmp_path):
    done = run(
        *models, "--output", tmp_path / "sheet.png", "--num", 2, "--scale", 0.5,
        "--dataset", "minicity_fine_sem_seg_train", "MODEL.DEVICE", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    drawn = cv2.imread(str(tmp_path / "sheet.png"))
    width, gap = 128, 6
    assert drawn.shape[1] == 3 * (width + gap) + gap
    tiles = [drawn[34:98, gap + i * (width + gap) :][:, :width].astype(int) for i in range(3)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(tiles[one] - tiles[other]).mean() > 5


def test_a_model_without_weights_is_refused(run, models, tmp_path):
    done = run(*models[:-2], "--output", tmp_path / "sheet.png")
    assert done.returncode == 2
    assert "--config-file is there 2 times and --weights 1 times" in done.stderr
    assert "Traceback" not in done.stderr
