"""After a crash: the last checkpoint, the one before it, and nothing outside of the folder."""

import os

import pytest
import torch
from torch import nn

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.errors import DamagedWeightsError, WeightsError


@pytest.fixture
def training(tmp_path):
    """A checkpointer with two checkpoints, of iterations 9 and 19, and one of weights alone."""
    model = nn.Linear(100, 100)
    checkpointer = DeepFuseCheckpointer(model, str(tmp_path / "out"))
    os.mkdir(tmp_path / "out")
    for number, iteration in enumerate((9, 19)):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        os.utime(tmp_path / "out" / f"model_{iteration:07d}.pth", (number, number))
    torch.save(model.state_dict(), tmp_path / "out" / "weights.pth")
    return checkpointer


def cut(path):
    path.write_bytes(path.read_bytes()[:-3000])


def test_a_damaged_last_checkpoint_is_named_and_the_one_before_offered(training, tmp_path):
    folder = tmp_path / "out"
    cut(folder / "model_0000019.pth")
    with pytest.raises(DamagedWeightsError) as caught:
        training.resume_or_load("", resume=True)
    message = str(caught.value)
    assert "model_0000019.pth cannot be read as a checkpoint; it is damaged" in message
    assert f"The newest whole checkpoint in {folder} is model_0000009.pth (iteration 9)" in message
    # the command it gives is one that works
    command = message.rsplit("\n", 1)[-1].strip()
    assert command == f"printf model_0000009.pth > {folder}/last_checkpoint"
    os.system(command)
    assert training.resume_or_load("", resume=True)["iteration"] == 9


def test_without_a_whole_checkpoint_the_next_step_is_another(training, tmp_path):
    for name in ("model_0000019.pth", "model_0000009.pth"):
        cut(tmp_path / "out" / name)
    with pytest.raises(DamagedWeightsError, match="no other whole checkpoint; start again without"):
        training.resume_or_load("", resume=True)


def test_a_last_checkpoint_that_is_gone_is_named(training, tmp_path):
    (tmp_path / "out/model_0000019.pth").unlink()
    with pytest.raises(WeightsError, match=r"19\.pth, which is gone.*is model_0000009\.pth"):
        training.resume_or_load("", resume=True)


@pytest.mark.parametrize(
    "name", ["../elsewhere.pth", "/etc/passwd", "a/b.pth", "", "x\0.pth", "..", "http://a/b.pth"]
)
def test_the_tag_of_the_last_checkpoint_cannot_lead_out_of_the_folder(training, tmp_path, name):
    torch.save({"model": training.model.state_dict()}, tmp_path / "elsewhere.pth")
    (tmp_path / "out/last_checkpoint").write_text(name)
    with pytest.raises(WeightsError, match="is not the name of a checkpoint in this folder"):
        training.resume_or_load("", resume=True)


def test_a_link_to_elsewhere_is_no_checkpoint(training, tmp_path):
    (tmp_path / "elsewhere.pth").write_bytes((tmp_path / "out/model_0000019.pth").read_bytes())
    (tmp_path / "out/link.pth").symlink_to(tmp_path / "elsewhere.pth")
    (tmp_path / "out/last_checkpoint").write_text("link.pth")
    with pytest.raises(WeightsError, match="is not the name of a checkpoint in this folder"):
        training.resume_or_load("", resume=True)


def test_a_checkpoint_of_another_model_is_not_resumed_from(training, tmp_path):
    other = DeepFuseCheckpointer(nn.Linear(100, 7), str(tmp_path / "out"))
    with pytest.raises(WeightsError, match=r"written by another model(?s:.*)leave out --resume"):
        other.resume_or_load("", resume=True)


def test_a_checkpointer_loads_again_after_an_error(training, tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"")
    with pytest.raises(DamagedWeightsError):
        training.load(str(tmp_path / "bad.pth"))
    assert training.load(str(tmp_path / "out/model_0000009.pth"))["iteration"] == 9


def test_the_final_weights_are_written_as_safetensors_too(tmp_path):
    model = nn.Linear(2, 1)
    model.input_format = "RGB"
    model.register_buffer("pixel_mean", torch.ones(3, 1, 1), persistent=False)
    model.twin = model.weight  # one storage, two names
    checkpointer = DeepFuseCheckpointer(model, str(tmp_path), final_safetensors=True)
    checkpointer.save("model_0000009", iteration=9)
    assert not (tmp_path / "model_0000009.safetensors").exists()
    checkpointer.save("model_final", iteration=19)

    other = nn.Linear(2, 1)
    other.twin = other.weight
    other.input_format = "BGR"
    with pytest.raises(WeightsError, match=r"INPUT.FORMAT is BGR, must be RGB"):
        DeepFuseCheckpointer(other).load(str(tmp_path / "model_final.safetensors"))
    other.input_format = "RGB"
    DeepFuseCheckpointer(other).load(str(tmp_path / "model_final.safetensors"))
    assert torch.equal(other.weight, model.weight)
