"""The range test on losses that are known in advance, and the command around it."""

import json
import math

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from deepfuse_d2.engine.solver.lr_finder import Curve, range_test
from deepfuse_d2.errors import ConfigError


class Bowl(nn.Module):
    """Loss w^2 / 2: with SGD, w is multiplied by 1 - rate in each step."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.v = nn.Parameter(torch.tensor(0.0))

    def forward(self, batch):
        return {"loss_w": self.w.pow(2) / 2, "loss_v": self.v.pow(2)}


def optimizer_of(model, lr=0.1):
    groups = [{"params": [model.w]}, {"params": [model.v], "lr": lr / 10}]
    return torch.optim.SGD(groups, lr=lr)


def test_the_rate_rises_exponentially_and_groups_keep_their_proportion():
    model = Bowl()
    optimizer = optimizer_of(model)
    curve = list(range_test(model, [None] * 9, optimizer, start=1e-4, end=1.0, steps=5))
    np.testing.assert_allclose([rate for rate, _ in curve], [1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.1)
    expected, w = [], 1.0
    for rate in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        expected.append(w**2 / 2)
        w *= 1 - rate
    np.testing.assert_allclose([loss for _, loss in curve], expected, rtol=1e-5)


def test_it_ends_where_the_loss_leaves_the_ground_or_is_not_finite():
    model = Bowl()
    curve = list(range_test(model, [None] * 99, optimizer_of(model), start=0.1, end=1e3, steps=50))
    losses = [loss for _, loss in curve]
    assert 5 < len(curve) < 50
    assert max(losses[losses.index(min(losses)) :]) <= 4 * min(losses)
    model.w.data.fill_(math.nan)
    assert list(range_test(model, [None] * 9, optimizer_of(model))) == []


def test_the_steepest_descent_is_suggested():
    rates = np.logspace(-5, 0, 101)
    # a fall of the shape of a logistic around 1e-2, then a rise
    losses = 2 - 1 / (1 + np.exp(-4 * (np.log(rates) - np.log(1e-2)))) + (rates > 0.1) * 5
    exact = Curve(rates.tolist(), losses.tolist(), smoothing=0.0)
    assert exact.suggest() == pytest.approx(1e-2, rel=0.01)
    # an average comes late, by some steps
    assert 1e-2 < Curve(rates.tolist(), losses.tolist(), smoothing=0.8).suggest() < 5e-2


def test_smoothing_is_the_average_corrected_for_its_start():
    curve = Curve([1, 2, 3], [4.0, 2.0, 8.0], smoothing=0.5)
    np.testing.assert_allclose(
        curve.smoothed(), [4.0, (4 / 4 + 2 / 2) / 0.75, (4 / 8 + 2 / 4 + 8 / 2) / 0.875]
    )


def test_a_loss_that_never_falls_suggests_nothing():
    assert Curve([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0]).suggest() is None
    assert Curve([], []).suggest() is None


def test_a_range_that_makes_no_sense_is_refused():
    model = Bowl()
    with pytest.raises(ConfigError, match=r"rates from 1 to 0\.1 in 100 steps"):
        list(range_test(model, [], optimizer_of(model), start=1.0, end=0.1))


def test_the_command_draws_and_suggests(deepfuse, repository, tiny_minicity, tmp_path, monkeypatch,
                                        capsys):  # fmt: skip
    monkeypatch.chdir(repository)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_minicity))
    output = tmp_path / "new" / "lr.png"
    tiny = [
        "MODEL.NECK.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
        "INPUT.CROP.SIZE", "[32, 64]", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0",
    ]  # fmt: skip
    code = deepfuse(
        "find-lr", "--config-file", "configs/MiniCity/sem_seg_R_18_SemSegFPN_quick.yaml",
        "--output", str(output), "--steps", "12", "--start", "1e-4", *tiny,
    )  # fmt: skip
    report = json.loads(output.with_suffix(".json").read_text())
    assert cv2.imread(str(output)).shape[2] == 3
    assert len(report["rates"]) == len(report["losses"]) > 3
    assert report["rates"][0] == pytest.approx(1e-4)
    said = capsys.readouterr().out
    if report["suggestion"] is None:
        assert (code, "never fell" in said) == (1, True)
    else:
        assert (code, "Suggested SOLVER.BASE_LR" in said) == (0, True)


def test_a_wrong_key_ends_in_one_message(deepfuse, repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    config = "configs/MiniCity/sem_seg_R_18_SemSegFPN_quick.yaml"
    assert deepfuse("find-lr", "--config-file", config, "MODEL.NEKC", "1") == 2
    assert "deepfuse find-lr: " in capsys.readouterr().err
