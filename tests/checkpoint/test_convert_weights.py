"""deepfuse convert as users run it, and what its files keep saying about themselves."""

import json
import subprocess
import sys

import pytest
import torch
import torchvision
import yaml
from weights_models import IMAGENET, resnet

from deepfuse_d2.checkpoint import DeepFuseCheckpointer, writing
from deepfuse_d2.checkpoint.reading import read_weights
from deepfuse_d2.engine import load_config
from deepfuse_d2.errors import WeightsError


@pytest.fixture
def public(tmp_path):
    """torchvision's ResNet-18 in a file; its state dict and the path."""
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    return state, str(tmp_path / "resnet18.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_converted_file_loads_and_goes_on_checking(deepfuse, public, tmp_path, capsys, suffix):
    state, path = public
    out = tmp_path / f"new/r18.{suffix}"
    assert deepfuse("convert", path, str(out)) == 0
    printed = capsys.readouterr().out
    assert "torchvision or timm ResNet" in printed
    assert "expects MODEL.PIXEL_STD [58.395, 57.12, 57.375]" in printed
    assert "of the classifier, and counters, left out: 22 tensors" in printed

    model = resnet(18, **IMAGENET)
    DeepFuseCheckpointer(model, min_match=1.0).load(str(out))
    assert torch.equal(
        model.backbone.res3[0].shortcut.weight, state["layer2.0.downsample.0.weight"]
    )
    with pytest.raises(WeightsError, match=r"torchvision or timm ResNet .*FORMAT is BGR, must be"):
        DeepFuseCheckpointer(resnet(18, **{**IMAGENET, "input_format": "BGR"})).load(str(out))


def test_the_yaml_beside_it_is_the_config_that_the_weights_expect(deepfuse, public, tmp_path):
    out = tmp_path / "r18.safetensors"
    deepfuse("convert", public[1], str(out))
    (tmp_path / "mine.yaml").write_text("_BASE_: r18.yaml\nMODEL: {DEVICE: cpu}\nVERSION: 2\n")
    cfg = load_config(str(tmp_path / "mine.yaml"))
    assert str(out) == cfg.MODEL.WEIGHTS
    assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("RGB", False)
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]


def test_a_config_is_held_against_the_weights(deepfuse, public, tmp_path, capsys, repository):
    (tmp_path / "mine.yaml").write_text(
        f"_BASE_: {repository}/configs/Base-MaskRCNN.yaml\nMODEL: {{DEVICE: cpu, RESNETS: "
        "{DEPTH: 18, RES2_OUT_CHANNELS: 64}}\n"
    )
    arguments = [public[1], "--report-only", "--config-file", str(tmp_path / "mine.yaml")]
    assert deepfuse("convert", *arguments) == 2
    error = capsys.readouterr().err
    assert (
        "INPUT.FORMAT is BGR, must be RGB; MODEL.PIXEL_MEAN is [103.53, 116.28, 123.675]" in error
    )
    right = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]"]
    right += ["MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"]
    assert deepfuse("convert", *arguments, "--opts", *right) == 0
    printed = capsys.readouterr().out
    assert "backbone.bottom_up.res5" in printed
    assert "new, start as configured: backbone.fpn_lateral2.weight" in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.yaml", "resnet18.pth"]


def test_a_file_is_replaced_only_when_asked(deepfuse, public, tmp_path, capsys):
    out = tmp_path / "r18.pth"
    out.write_text("mine")
    assert deepfuse("convert", public[1], str(out)) == 2
    assert "r18.pth exists; choose another name, or replace it" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert deepfuse("convert", public[1], str(out), "--overwrite") == 0
    assert read_weights(out).origin == "torchvision or timm ResNet"


def test_another_suffix_is_refused_before_anything_is_written(deepfuse, public, tmp_path, capsys):
    assert deepfuse("convert", public[1], str(tmp_path / "r18.bin")) == 2
    assert "weights are written as .pth or .safetensors" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["resnet18.pth"]


def test_what_the_disk_gives_back_is_compared(public, tmp_path, monkeypatch):
    def lossy(tensors, path, metadata):
        save_file({k: v + 1 for k, v in tensors.items()}, path, metadata)

    import safetensors.torch

    save_file = safetensors.torch.save_file
    monkeypatch.setattr(safetensors.torch, "save_file", lossy)
    with pytest.raises(WeightsError, match="was not written: what the disk gave back differs"):
        writing.write_weights(tmp_path / "x.safetensors", {"w": torch.zeros(2)}, "", {})
    assert [p.name for p in tmp_path.iterdir()] == ["resnet18.pth"]


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_every_layout_and_type_survives(tmp_path, suffix):
    base = torch.randn(4, 3, 2, 2)
    state = {
        "channels_last": base.to(memory_format=torch.channels_last),
        "part": base[1:, :2],
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "number": torch.tensor(7),
        "nan": torch.tensor([float("nan"), 1.0]),
        "empty": torch.zeros(0, 3),
    }
    writing.write_weights(tmp_path / f"x.{suffix}", state, "", {"INPUT.FORMAT": "RGB"})
    weights = read_weights(tmp_path / f"x.{suffix}")
    for name, tensor in state.items():
        torch.testing.assert_close(weights.state[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert weights.expects == {"INPUT.FORMAT": "RGB"}


@pytest.mark.parametrize(
    "metadata",
    [
        {"source": "x"},
        {"source": "x", "expects": {"OUTPUT_DIR": "/elsewhere"}},
        {"source": "x", "expects": {"INPUT.FORMAT": "L"}},
        {"source": "x", "expects": {"MODEL.PIXEL_MEAN": "1"}},
        {"source": 3, "expects": {}},
        "x",
    ],
)
def test_what_a_file_says_about_itself_is_not_trusted(tmp_path, metadata):
    from safetensors.torch import save_file

    save_file(
        {"w": torch.ones(1)}, tmp_path / "x.safetensors", {"deepfuse_d2": json.dumps(metadata)}
    )
    with pytest.raises(WeightsError, match="cannot be understood what its weights expect"):
        read_weights(tmp_path / "x.safetensors")


def test_a_file_that_would_run_code_is_refused(deepfuse, tmp_path, capsys):
    (tmp_path / "x.pkl").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    assert deepfuse("convert", str(tmp_path / "x.pkl"), "--report-only") == 2
    assert "x.pkl asks for os.system" in capsys.readouterr().err


def test_the_command_runs_from_a_shell(repository, public, tmp_path):
    command = [sys.executable, "-W", "ignore", "tools/convert_weights.py", public[1]]
    command.append(str(tmp_path / "r18.safetensors"))
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "r18.yaml").read_text())["INPUT"] == {"FORMAT": "RGB"}
