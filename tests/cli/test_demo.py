"""The drawing commands, run as a user runs them on a model of random weights."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from deepfuse_d2.engine import load_config

CONFIG = "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml"


@pytest.fixture(scope="module")
def weights(tmp_path_factory, repository, tiny_opts):
    """A file of random weights for the tiny network."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.manual_seed(0)
    model = build_model(load_config(str(repository / CONFIG), tiny_opts))
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.fixture
def run(repository, tiny_minicity, weights):
    def command(tool, *arguments):
        environment = {**os.environ, "DETECTRON2_DATASETS": str(tiny_minicity)}
        return subprocess.run(
            [sys.executable, "-W", "ignore", f"tools/{tool}.py", "--config-file", CONFIG,
             "--weights", str(weights), "--threshold", "0", *map(str, arguments)],
            cwd=repository, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return command


def test_demo_draws_files_and_folders_under_different_names(run, tmp_path, tiny_opts):
    picture = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "street.png"), picture)
    cv2.imwrite(str(tmp_path / "single.jpg"), picture)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    done = run(
        "demo", "--input", tmp_path / "a", tmp_path / "b", tmp_path / "single.jpg",
        "--output", tmp_path / "out", "--opts", *tiny_opts,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["single.png", "street.png", "street_2.png"]
    drawn = cv2.imread(str(tmp_path / "out" / "street.png"))
    assert drawn.shape == picture.shape
    assert (drawn != picture).any()


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere.png", "nowhere.png is neither a file nor a folder"), ("empty", "no images in ")],
)
def test_demo_without_images_says_so(run, tmp_path, tiny_opts, path, message):
    (tmp_path / "empty").mkdir()
    done = run(
        "demo", "--input", tmp_path / path, "--output", tmp_path / "out", "--opts", *tiny_opts
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_names_an_unreadable_image_and_draws_the_others(run, tmp_path, tiny_opts):
    (tmp_path / "broken.png").write_bytes(b"no png")
    cv2.imwrite(str(tmp_path / "good.png"), np.zeros((64, 128, 3), np.uint8))
    done = run("demo", "--input", tmp_path, "--output", tmp_path / "out", "--opts", *tiny_opts)
    assert done.returncode == 2
    assert "skipped: " in done.stderr
    assert "broken.png is not an image" in done.stderr
    assert "Wrote 1 pictures" in done.stdout
    assert "frame/s" in done.stderr  # the progress
    assert "frames/s" in done.stdout
    assert os.listdir(tmp_path / "out") == ["good.png"]


def test_predictions_are_drawn_beside_the_ground_truth(run, tmp_path, tiny_opts):
    done = run("compare_predictions", "--output", tmp_path / "sheet.png", "--num", 2, *tiny_opts)
    assert done.returncode == 0, done.stderr
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    # two columns of 256 pixels, a gap beside each
    assert sheet.shape[1] == 2 * (256 + 6) + 6
    assert sheet.shape[0] > 2 * 128
