"""train_net.py as a user runs it: from nothing to a model, evaluated, resumed, in processes."""

import json
import os
import subprocess
import sys

import pytest
import torch

from deepfuse_d2.engine import Trainer, load_config

QUICK = "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml"


@pytest.fixture
def train_net(repository, tiny_minicity, tiny_opts, tmp_path):
    """Run train_net.py on the tiny data set with the tiny network; returns the finished process."""

    def run(*arguments, launcher=(), config=QUICK):
        environment = {**os.environ, "DETECTRON2_DATASETS": str(tiny_minicity)}
        command = [
            sys.executable, *launcher, "train_net.py", "--config-file", config, *arguments[0],
            *tiny_opts, "OUTPUT_DIR", str(tmp_path / "output"), *arguments[1],
        ]  # fmt: skip
        return subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300
        )

    return run


def metrics(folder):
    lines = (folder / "metrics.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


def log(folder):
    return (folder / "log.txt").read_text()


def test_a_model_is_trained_evaluated_resumed_and_evaluated_alone(train_net, tmp_path):
    output = tmp_path / "output"
    first = train_net([], ["SOLVER.MAX_ITER", "2"])
    assert first.returncode == 0, first.stderr
    # what a person reads: the table of the evaluation is half of it
    assert len(first.stdout.splitlines()) < 40, first.stdout
    assert "total_loss: " in first.stdout
    assert f"Kept: {output / 'model_final.pth'}, {output / 'results.json'}" in first.stdout
    assert "Running with full config" in log(output)
    assert {"config.yaml", "environment.txt", "metrics.json", "model_final.pth"} <= set(
        os.listdir(output)
    )
    assert any(name.startswith("events.out.tfevents") for name in os.listdir(output))
    assert "segm/AP50" in metrics(output)[-1]
    written = json.loads((output / "results.json").read_text())
    assert written["iterations"] == 2
    assert "AP50" in written["results"]["minicity_fine_instance_seg_val"]["segm"]
    model = Trainer.build_model(load_config(str(output / "config.yaml")))
    assert written["parameters"] == sum(p.numel() for p in model.parameters())

    # again, when it is done: evaluates, trains nothing
    weights = torch.load(output / "model_final.pth", weights_only=True)["model"]
    second = train_net(["--resume"], ["SOLVER.MAX_ITER", "2"])
    assert second.returncode == 0, second.stderr
    assert log(output).count("Starting training from iteration 2") == 1
    again = torch.load(output / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)

    # longer: goes on from where it was
    third = train_net(["--resume"], ["SOLVER.MAX_ITER", "3"])
    assert third.returncode == 0, third.stderr
    assert log(output).count("Starting training from iteration 2") == 2

    alone = train_net(["--eval-only"], ["MODEL.WEIGHTS", str(output / "model_final.pth")])
    assert alone.returncode == 0, alone.stderr
    assert "| class" in alone.stdout
    assert "copypaste: AP,AP50" in log(output)
    assert "copypaste" not in alone.stdout


def test_two_cpu_processes_train_and_evaluate(train_net, tmp_path):
    done = train_net(["--num-gpus", "2", "--dist-url", "auto"], ["SOLVER.MAX_ITER", "2"])
    assert done.returncode == 0, done.stderr
    assert "World size: 2" in log(tmp_path / "output")
    assert (tmp_path / "output" / "model_final.pth").exists()
    assert "segm/AP50" in metrics(tmp_path / "output")[-1]


def test_torchrun_works_too(train_net, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = train_net([], ["SOLVER.MAX_ITER", "1"], launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert "World size: 2" in log(tmp_path / "output")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.NEKC.NAME", "FPN"], "unknown config key MODEL.NEKC"),
        (["MODEL.NECK.NAME", "FPNN"], 'MODEL.NECK.NAME = "FPNN" is unknown; choose one of: '),
        (["MODEL.WEIGHTS", "nowhere.pth"], '"nowhere.pth" does not exist'),
        (["DATASETS.TRAIN", "('cityscapes_fine_instance_seg_train',)"], "cityscapes"),
    ],
)
def test_a_users_mistake_ends_in_one_message_without_a_stack_trace(train_net, overrides, message):
    done = train_net([], overrides)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("train_net.py: ")
    assert message in last
    assert "Traceback" not in done.stderr


def test_default_predictor_serves_what_was_trained(train_net, tiny_minicity, tmp_path, monkeypatch):
    import cv2
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    from deepfuse_d2 import add_deepfuse_config

    assert train_net([], ["SOLVER.MAX_ITER", "1"]).returncode == 0
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_minicity))
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.merge_from_file(str(tmp_path / "output" / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(tmp_path / "output" / "model_final.pth")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    image = cv2.imread(str(next(tiny_minicity.rglob("*_leftImg8bit.png"))))
    instances = DefaultPredictor(cfg)(image)["instances"]
    assert len(instances) > 0
    assert instances.pred_masks.shape[1:] == image.shape[:2]
