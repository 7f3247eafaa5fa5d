"""The trials of faults: they see what is lost, and say in a row of the table what happened."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from benchmarks.fault_injection.training import FaultyTraining


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small training that was not disturbed."""
    torch.set_num_threads(1)
    training = FaultyTraining(tmp_path_factory.mktemp("faults"))
    assert training.run(training.whole) == 0
    return training


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the undisturbed training, to be changed."""
    return shutil.copytree(trained.whole, tmp_path / "copy")


def test_a_training_like_the_undisturbed_one_has_lost_nothing(trained, copy):
    # what a machine measures is not part of a training
    lines = [json.loads(line) for line in (copy / "metrics.json").read_text().splitlines()]
    lines[3]["time"] = 99.0
    (copy / "metrics.json").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert trained.differences(copy) == []


def test_the_last_bit_of_a_weight_and_a_line_of_metrics_are_missed(trained, copy):
    content = torch.load(copy / "model_final.pth", weights_only=True)
    bias = content["model"]["roi_heads.box_predictor.cls_score.bias"]
    bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))
    torch.save(content, copy / "model_final.pth")
    lines = (copy / "metrics.json").read_text().splitlines()
    (copy / "metrics.json").write_text("\n".join(lines[:-1]))
    assert trained.differences(copy) == ["metrics.json", "weights"]


def test_a_training_that_did_not_end_has_lost_it(trained, tmp_path):
    assert trained.differences(tmp_path) == ["it did not come to its end"]


def test_a_fault_is_caused_survived_and_told(repository):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.fault_injection", "--only",
         "loss that is not finite, skip"],
        cwd=repository, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "not finite, skip" in line)
    assert "Iteration 11: loss_mask is not finite (loss_cls = " in row
    assert "leftImg8bit.png" in row
    assert row.split("|")[-2].strip() == "nothing"
