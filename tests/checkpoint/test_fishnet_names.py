"""The authors' FishNet checkpoints: recognised, renamed, loaded as they lie on disk."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.checkpoint.sources.fishnet_names import is_fishnet, rename_fishnet
from deepfuse_d2.checkpoint.sources.table import IMAGENET_RGB, recognise
from deepfuse_d2.modeling.backbone import Fish
from deepfuse_d2.modeling.backbone.fishnet import VARIANTS

sys.path.append(str(Path(__file__).parents[1] / "modeling"))

from fishnet_reference import random_state


@pytest.fixture(scope="module")
def state():
    return random_state(99)


def test_the_authors_names_are_recognised_and_others_are_not(state):
    assert is_fishnet(state)
    assert not is_fishnet({"conv1.weight": 0, "layer1.0.conv1.weight": 0})
    assert not is_fishnet(rename_fishnet(state))
    source = recognise(state)
    assert source.rename is rename_fishnet
    assert (source.format, source.pixel_mean) == ("RGB", IMAGENET_RGB["pixel_mean"])


def test_every_tensor_of_the_dense_network_is_renamed_and_the_rest_left_out(state):
    with torch.device("meta"):
        expected = set(nn.ModuleDict({"fish": Fish(*VARIANTS[99])}).state_dict())
    renamed = rename_fishnet(state)
    assert set(renamed) == {n for n in expected if not n.endswith("num_batches_tracked")}
    whole = rename_fishnet(state, classifier=True)
    assert {n.split(".")[0] for n in set(whole) - set(renamed)} == {"classifier"}


def test_unknown_names_are_kept_for_the_report(state):
    odd = {"fish.fish.4.7.0.conv1.weight": torch.ones(1), "extra.weight": torch.ones(1)}
    assert set(rename_fishnet({**state, **odd})) - set(rename_fishnet(state)) == set(odd)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv3.0.weight", "fish.stem.conv3.weight"),
        ("conv2.1.running_var", "fish.stem.conv2.norm.running_var"),
        ("fish.fish.0.0.0.shortcut.2.weight", "fish.stages.0.main.0.shortcut.conv.weight"),
        ("fish.fish.3.0.3.bias", "fish.stages.3.conv1.norm.bias"),
        ("fish.fish.3.1.bias", "fish.stages.3.conv2.bias"),
        ("fish.fish.3.2.0.bn1.weight", "fish.stages.3.main.0.norm.weight"),
        ("fish.fish.3.3.0.5.bias", "fish.stages.3.gate.conv2.bias"),
        ("fish.fish.6.1.0.bn3.weight", "fish.stages.6.transfer.0.conv2.norm.weight"),
        ("fish.fish.9.0.0.conv2.weight", "fish.stages.9.main.0.conv2.weight"),
    ],
)
def test_a_name_becomes_the_one_of_its_place(theirs, ours):
    assert list(rename_fishnet({theirs: torch.ones(1)})) == [ours]


def test_a_checkpoint_of_the_authors_training_loads_with_all_that_lies_around_it(state, tmp_path):
    file = tmp_path / "fishnet99_ckpt.tar"
    torch.save(
        {
            "epoch": 100, "arch": "fishnet99", "best_prec1": 77.4, "optimizer": {"state": {}},
            "state_dict": {f"module.{name}": value.float() for name, value in state.items()},
        },
        file,
    )  # fmt: skip

    class Model(nn.Module):
        """What the checkpointer sees of a detector: its place for the bottom-up network."""

        def __init__(self):
            super().__init__()
            self.backbone = nn.ModuleDict({"bottom_up": nn.ModuleDict({"fish": fish})})
            self.input_format = "RGB"
            for name in ("pixel_mean", "pixel_std"):
                self.register_buffer(name, torch.tensor(IMAGENET_RGB[name]), False)

    fish = Fish(*VARIANTS[99])
    DeepFuseCheckpointer(Model()).load(str(file))
    expected = rename_fishnet(state)
    for name, value in fish.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, expected[f"fish.{name}"].float()), name
