"""The moving average of the weights: its formula, its place in checkpoints and evaluation."""

import contextlib
import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from tiny_training import NAME, losses, make_data, tiny_config, train
from torch import nn

from deepfuse_d2.checkpoint.reading import read_weights
from deepfuse_d2.engine.solver.ema import AverageWeights
from deepfuse_d2.errors import ConfigError


def model():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    net[2].requires_grad_(False)
    return net


def change(net):
    with torch.no_grad():
        for tensor in (*net[0].parameters(), *net[1].parameters(), net[1].running_mean):
            tensor.add_(torch.randn_like(tensor))


def test_the_average_follows_its_formula():
    net = model()
    hook = AverageWeights(net, decay=0.3)
    hook.before_train()
    names = {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"}
    assert set(hook.average) == names
    expected = {name: net.state_dict()[name].clone() for name in names}
    for n in range(6):
        change(net)
        hook.after_step()
        decay = min(0.3, (1 + n) / (10 + n))
        for name in names:
            expected[name] = decay * expected[name] + (1 - decay) * net.state_dict()[name]
    assert decay == 0.3
    for name in names:
        torch.testing.assert_close(hook.average[name], expected[name])


def test_the_model_has_the_average_for_a_while_and_then_its_own_weights():
    net = model()
    hook = AverageWeights(net)
    hook.before_train()
    change(net)
    hook.after_step()
    own = {name: x.clone() for name, x in net.state_dict().items()}
    parameters = list(net.parameters())
    with contextlib.suppress(KeyError), hook.averaged():
        for name, average in hook.average.items():
            assert torch.equal(net.state_dict()[name], average)
        assert not torch.equal(net[0].weight, own["0.weight"])
        raise KeyError("an evaluation that fails")
    assert all(torch.equal(x, own[name]) for name, x in net.state_dict().items())
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))


def test_a_state_is_taken_over_and_what_it_lacks_is_told(caplog):
    net = model()
    hook = AverageWeights(net)
    hook.before_train()
    change(net)
    hook.after_step()
    state = hook.state_dict()
    other = AverageWeights(net)
    other.load_state_dict(state)
    other.before_train()
    assert other.steps == 1
    assert all(torch.equal(x, hook.average[name]) for name, x in other.average.items())
    del state["average"]["0.bias"]
    with caplog.at_level(logging.WARNING):
        other.load_state_dict(state)
    assert "lacks 1 tensors (0.bias, ...)" in caplog.text
    assert torch.equal(other.average["0.bias"], net[0].bias)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_wrong_decay_is_told(decay):
    with pytest.raises(ConfigError, match=r"MODEL_EMA.DECAY is .*in \[0, 1\)"):
        AverageWeights(model(), decay)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    yield make_data(tmp_path_factory.mktemp("images"))
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


class Stop(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            raise KeyboardInterrupt


def test_a_resumed_training_has_the_average_of_one_that_never_stopped(tmp_path, data):
    keys = ("MODEL_EMA.ENABLED", True, "MODEL_EMA.DECAY", 0.9, "SOLVER.MAX_ITER", 12)
    whole = train(tiny_config(tmp_path / "whole", *keys))
    cfg = tiny_config(tmp_path / "parts", *keys)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, hooks=[Stop(8)])
    again = train(cfg, resume=True)
    averages = [next(h for h in t._hooks if type(h) is AverageWeights) for t in (whole, again)]
    assert averages[0].steps == averages[1].steps == 12
    for name, average in averages[0].average.items():
        assert torch.equal(average, averages[1].average[name])
    assert "ema/tiny/score" in whole.storage.latest()
    written = read_weights(str(tmp_path / "whole" / "model_ema.pth"))
    assert torch.equal(written.state["head.weight"], averages[0].average["head.weight"])
    assert not torch.equal(written.state["head.weight"], whole.model.head.weight)


def test_the_best_model_by_a_score_of_the_average_is_the_average(tmp_path, data):
    keys = ("MODEL_EMA.ENABLED", True, "MODEL_EMA.DECAY", 0.9, "SOLVER.MAX_ITER", 8)
    trainer = train(tiny_config(tmp_path, *keys, "MONITOR.METRIC", "ema/tiny/score"))
    best = read_weights(str(tmp_path / "model_best.pth")).state
    average = read_weights(str(tmp_path / "model_ema.pth")).state
    assert all(torch.equal(best[name], value) for name, value in average.items())
    assert not torch.equal(best["head.weight"], trainer.model.head.weight)
    # and that of a score of the weights is theirs
    trainer = train(tiny_config(tmp_path / "own", *keys, "MONITOR.METRIC", "tiny/score"))
    best = read_weights(str(tmp_path / "own" / "model_best.pth")).state
    assert torch.equal(best["head.weight"], trainer.model.head.weight)


def test_evaluating_the_average_changes_no_loss(tmp_path, data):
    keys = ("MODEL_EMA.ENABLED", True, "SOLVER.MAX_ITER", 12, "TEST.EVAL_PERIOD", 3)
    for name, is_evaluated in (("with", True), ("without", False)):
        train(tiny_config(tmp_path / name, *keys, "MODEL_EMA.EVALUATE", is_evaluated))
    assert losses(tmp_path / "with") == losses(tmp_path / "without")


def test_an_interrupted_training_writes_no_final_average(tmp_path):
    hook = AverageWeights(model(), file=str(tmp_path / "model_ema.pth"))
    hook.before_train()
    hook.trainer = SimpleNamespace(iter=3, max_iter=4)
    hook.after_train()
    assert not (tmp_path / "model_ema.pth").exists()
