"""Steps in parts and in lower precision."""

import copy
import logging

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn import functional as F

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.engine.speed import mixed_precision
from deepfuse_d2.engine.steps import StepTrainer, build_step_trainer
from deepfuse_d2.errors import ConfigError


class Model(nn.Module):
    """A loss that is a mean over images, and one in which all its calls are counted."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Linear(16, 2)
        self.calls = []

    def forward(self, batch):
        x = torch.stack([sample["image"] for sample in batch])
        maps = self.conv(x).relu()
        y = self.head(maps.mean((2, 3)))
        self.calls.append((len(batch), maps.dtype))
        target = torch.stack([sample["target"] for sample in batch])
        return {
            "loss_a": F.mse_loss(y[:, 0].to(target.dtype), target),
            "loss_b": y[:, 1].square().mean(),
        }


def batches(count, size=4):
    torch.manual_seed(1)
    return [
        [{"image": torch.randn(3, 8, 8), "target": torch.randn(())} for _ in range(size)]
        for _ in range(count)
    ]


def train(model, kind=StepTrainer, steps=3, **options):
    """Losses of each step; the model is trained in place."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = kind(model.train(), batches(steps), optimizer, **options)
    found = []
    with EventStorage() as storage:
        for i in range(steps):
            trainer.iter = storage.iter = i
            trainer.run_step()
            found.append({k: v for k, (v, _) in storage.latest().items() if "loss" in k})
            storage.step()
    return found, trainer


def test_in_one_part_a_step_is_detectron2s_bit_for_bit():
    model = Model()
    other = copy.deepcopy(model)
    found, _ = train(model)
    expected, _ = train(other, SimpleTrainer)
    assert found == expected
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_learn_what_the_whole_batch_learns(parts):
    model = Model().double()
    other = copy.deepcopy(model)
    torch.set_default_dtype(torch.float64)
    try:
        found, _ = train(model, parts=parts)
        expected, _ = train(other)
    finally:
        torch.set_default_dtype(torch.float32)
    assert [size for size, _ in model.calls] == [4 // parts] * 3 * parts
    assert [size for size, _ in other.calls] == [4] * 3
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_under_autocast_the_forward_pass_is_short_and_the_losses_are_not():
    model = Model()
    found, trainer = train(model, dtype=torch.bfloat16)
    assert {dtype for _, dtype in model.calls} == {torch.bfloat16}
    exact, _ = train(Model())
    assert found[0].keys() == exact[0].keys()
    losses = trainer._backward(batches(1)[0])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_scale_of_the_losses_is_gone_from_the_gradients_that_are_clipped():
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([p.grad.clone() for p in self.param_groups[0]["params"]])
            super().step(closure)

    model = Model()
    expected = copy.deepcopy(model)
    sum(expected(batches(1)[0]).values()).backward()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer = StepTrainer(model, batches(1), Spy(model.parameters(), lr=0.1), scaler=scaler)
    with EventStorage():
        trainer.iter = 0
        trainer.run_step()
    for gradient, parameter in zip(seen[0], expected.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
    other = StepTrainer(
        Model(), [], torch.optim.SGD(Model().parameters(), lr=1), scaler=torch.amp.GradScaler("cpu")
    )
    trainer.iter = 0
    other.load_state_dict(copy.deepcopy(trainer.state_dict()))
    assert other.scaler.get_scale() == 1024.0


def config(*overrides):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(list(overrides))
    return cfg


def build(cfg):
    model = Model()
    return build_step_trainer(cfg, model, [], torch.optim.SGD(model.parameters(), lr=1))


def test_the_config_chooses_parts_and_precision(monkeypatch, caplog):
    monkeypatch.setattr(mixed_precision, "has_bfloat16", lambda: True)
    plain = build(config())
    assert (plain.parts, plain.dtype, plain.scaler) == (1, None, None)
    amp = ("SOLVER.AMP.ENABLED", True, "DEEPFUSE_D2.SOLVER.AMP.DTYPE", "bfloat16")
    assert build(config(*amp, "DEEPFUSE_D2.SOLVER.ACCUMULATE", 4)).parts == 4
    assert build(config(*amp)).dtype is torch.bfloat16
    monkeypatch.setattr(mixed_precision, "has_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert build(config(*amp)).dtype is None
    assert "bfloat16 is slower than float32 on this CPU" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("DEEPFUSE_D2.SOLVER.ACCUMULATE", 3), "ACCUMULATE is 3; .* which is 16, a multiple of it"),
        (("DEEPFUSE_D2.SOLVER.ACCUMULATE", 0), "ACCUMULATE is 0; it must be 1 or more"),
        (
            ("SOLVER.AMP.ENABLED", True, "DEEPFUSE_D2.SOLVER.AMP.DTYPE", "fp8"),
            'DTYPE = "fp8" is unknown',
        ),
    ],
)
def test_wrong_values_are_told(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build(config(*overrides))
