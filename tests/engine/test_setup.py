"""From the command line to a config: what is merged, and how mistakes are answered."""

import argparse
from pathlib import Path

import pytest
import torch

from deepfuse_d2.engine import check_config, load_config, setup
from deepfuse_d2.errors import ConfigError, DatasetError, WeightsError

# plans of deepfuse ablate lie there as well; tests/cli/test_ablate.py reads them
CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[2] / "configs").rglob("*.yaml")
    if path.parent.name != "ablations"
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_in_the_repository_merges_and_names_what_exists(path):
    cfg = load_config(str(path), ["MODEL.WEIGHTS", ""])
    check_config(cfg)


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if not path.name.startswith("Base-")],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_every_config_writes_to_a_folder_of_its_own(path):
    cfg = load_config(str(path))
    assert f"output/{path.parent.name}/{path.stem}" == cfg.OUTPUT_DIR


def test_overrides_win_over_the_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("MODEL:\n  NECK:\n    OUT_CHANNELS: 64\n")
    assert load_config(str(file)).MODEL.NECK.OUT_CHANNELS == 64
    assert load_config(str(file), ["MODEL.NECK.OUT_CHANNELS", "32"]).MODEL.NECK.OUT_CHANNELS == 32


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_config_for_cuda_falls_back_to_the_cpu_with_one_warning(caplog):
    cfg = load_config("", ["MODEL.DEVICE", "cuda"])
    assert cfg.MODEL.DEVICE == "cpu"
    assert len(caplog.records) == 1
    assert "no CUDA device; using the CPU" in caplog.text


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.DEEPFUSE.DETPH", "1"], "unknown config key MODEL.DEEPFUSE.DETPH.*FUSE.DEPTH"),
        (["MODEL.DEEPFUSE.DEPTH"], "KEY VALUE pairs; 1 words were given"),
        (["MODEL.DEEPFUSE.DEPTH", "deep"], "On the command line: Type mismatch.*DEEPFUSE.DEPTH"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_named(opts, message):
    with pytest.raises(ConfigError, match=message):
        load_config("", opts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL:\n  NEK: 1\n", "In .*unknown config key MODEL.NEK.*MODEL.NECK"),
        ("MODEL: [1\n", "In .*a.yaml: "),
        ("_BASE_: nowhere.yaml\n", "nowhere.yaml does not exist"),
        ("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("OUTPUT_DIR: !!python/object/new:os.mkdir [x]\n", "plain values only.*can run code"),
        ("OUTPUT_DIR: !!python/name:os.getcwd\n", "plain values only"),
        ("_BASE_: evil.yaml\n", "plain values only.*can run code"),
    ],
)
def test_a_wrong_yaml_is_named_and_runs_no_code(tmp_path, text, message):
    evil = f"OUTPUT_DIR: !!python/object/apply:os.mkdir [{tmp_path}/executed]\n"
    (tmp_path / "evil.yaml").write_text(evil)
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_config(str(file))
    assert not (tmp_path / "executed").exists()


def test_a_missing_config_file_is_named():
    with pytest.raises(ConfigError, match=r"nowhere.yaml does not exist"):
        load_config("nowhere.yaml")


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("MODEL.BACKBONE.NAME", "build_resnet", ConfigError, "MODEL.BACKBONE.NAME.*build_resnet_b"),
        ("MODEL.META_ARCHITECTURE", "RCNN", ConfigError, "choose one of: .*GeneralizedRCNN"),
        ("MODEL.ROI_HEADS.NAME", "Heads", ConfigError, "StandardROIHeads"),
        ("DATASETS.TEST", ("pennfudan_vall",), DatasetError, "not registered. Did you mean: pennf"),
        ("MODEL.WEIGHTS", "no.pth", WeightsError, '"no.pth" does not exist'),
    ],
)
def test_an_unknown_name_is_answered_with_key_value_and_next_step(key, value, error, message):
    cfg = load_config("", [key, value])
    with pytest.raises(error, match=message):
        check_config(cfg)


def test_evaluation_without_weights_is_refused():
    args = argparse.Namespace(config_file="", opts=[], eval_only=True, resume=False)
    with pytest.raises(WeightsError, match="--eval-only has nothing to evaluate"):
        setup(args)


def test_the_merged_config_and_the_environment_are_written_beside_the_weights(tmp_path):
    opts = ["OUTPUT_DIR", str(tmp_path / "out"), "MODEL.DEVICE", "cpu", "SEED", "3"]
    setup(argparse.Namespace(config_file="", opts=opts, eval_only=False, resume=False))
    assert "SEED: 3" in (tmp_path / "out" / "config.yaml").read_text()
    environment = (tmp_path / "out" / "environment.txt").read_text()
    assert "deepfuse_d2 0" in environment
    assert "git " in environment
    assert torch.__version__ in environment
