"""Pre-training with semantic supervision: from a folder of images to weights that a model loads."""

import logging
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.engine import load_config
from deepfuse_d2.modeling.sem_seg.semantic_supervision import (
    SemanticSupervision,
    SupervisedClassifier,
)

NETWORK = [
    "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.META_ARCHITECTURE",
    "FusionSemanticSegmentor", "MODEL.BACKBONE.NAME", "build_rearranged_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.RESNETS.DEPTH", "18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NORM", "BN",
    "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
    "MODEL.EXFUSE.STAGE_BLOCKS", "[1, 1, 1, 1]", "MODEL.SEM_SEG_HEAD.NAME", "ExFuseHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']",
    "MODEL.GCN.KERNEL_SIZE", "[3]", "MODEL.GCN.OUTPUT_STRIDE", "4",
]  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes that differ in colour."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for label, colour in (("red", (30, 30, 220)), ("blue", (220, 30, 30))):
        (folder / label).mkdir()
        for index in range(8):
            noise = generator.integers(-30, 30, (40, 48, 3))
            image = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / label / f"{index}.png"), image)
    return folder


@pytest.fixture
def command(repository, tmp_path):
    (tmp_path / "empty.yaml").write_text("VERSION: 2\n")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-W", "ignore", "tools/pretrain_classifier.py", "--config-file",
             str(tmp_path / "empty.yaml"), "--size", "32", "--width", "8", "--batch", "4",
             "--workers", "0", *map(str, arguments), *NETWORK],
            cwd=repository, capture_output=True, text=True, timeout=600,
        )  # fmt: skip

    return run


def test_trains_every_stage_and_writes_weights_that_a_model_loads_whole(
    command, images, tmp_path, caplog
):
    output = tmp_path / "pretrained.pth"
    done = command(
        "--images", images, "--val-images", images, "--output", output, "--epochs", 6, "--lr", 1.0
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "Accuracy" in line]
    assert len(lines) == 6
    accuracies = [float(part.split()[1]) for part in lines[-1].split("Accuracy: ")[1].split(",")]
    assert len(accuracies) == 4
    assert max(accuracies) >= 90, lines[-1]

    saved = torch.load(output, weights_only=True)["model"]
    assert not any("supervision" in name for name in saved)
    model = build_model(load_config("", NETWORK))
    with caplog.at_level(logging.WARNING):
        DeepFuseCheckpointer(model).load(str(output))
    loaded = model.backbone.state_dict()
    assert set(saved) == set(loaded)
    for name, value in saved.items():
        assert torch.equal(loaded[name], value), name
    model.backbone.load_state_dict(saved, strict=True)


def test_a_folder_without_classes_is_explained(command, tmp_path):
    (tmp_path / "nothing").mkdir()
    done = command("--images", tmp_path / "nothing", "--output", tmp_path / "a.pth")
    assert done.returncode == 2
    assert "one folder a class" in done.stderr
    assert "Traceback" not in done.stderr


def test_supervision_is_two_convolutions_a_pool_and_two_layers():
    head = SemanticSupervision(12, 5, width=8)
    kinds = [type(m).__name__ for m in head.modules()]
    assert (kinds.count("Conv2d"), kinds.count("Linear")) == (2, 2)
    assert kinds.count("AdaptiveAvgPool2d") == 1
    assert head(torch.randn(3, 12, 9, 7)).shape == (3, 5)


def test_every_stage_has_a_classifier_and_all_of_the_network_learns():
    class BottomUp(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.res2 = torch.nn.Conv2d(3, 4, 3, 4, 1)
            self.res3 = torch.nn.Conv2d(4, 6, 3, 2, 1)

        def output_shape(self):
            return {
                "res2": ShapeSpec(channels=4, stride=4),
                "res3": ShapeSpec(channels=6, stride=8),
            }

        def forward(self, x):
            x = self.res2(x)
            return {"res2": x, "res3": self.res3(x)}

    model = SupervisedClassifier(BottomUp(), 5, width=8, norm="")
    logits = model(torch.randn(2, 3, 32, 32))
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        "res2": (2, 5), "res3": (2, 5),
    }  # fmt: skip
    # the fine stage learns from its own classifier alone, without the coarse one
    logits["res2"].square().sum().backward()
    assert model.bottom_up.res2.weight.grad.abs().sum() > 0
    assert model.bottom_up.res3.weight.grad is None
