"""A model as a folder: packed, used wherever a file is, and refused where it is not whole."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

from deepfuse_d2 import get_config, load_config
from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.checkpoint.model_folder import open_folder
from deepfuse_d2.cli import pack as pack_command
from deepfuse_d2.errors import ConfigError, DamagedWeightsError, WeightsError
from deepfuse_d2.inference import Predictor, packing
from deepfuse_d2.inference.int8 import Costs
from deepfuse_d2.inference.packing import difference, pack

RECIPE = "MiniCity/mask_rcnn_R_18_FPN_quick"
RESULTS = {"minicity_fine_instance_seg_val": {"segm": {"AP": 16.7, "AP50": 34.25, "AP-car": 30.0}}}


@pytest.fixture(scope="module")
def cfg(tiny_opts, tmp_path_factory):
    """Of a tiny network with random weights that finds something."""
    opts = [
        *tiny_opts, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "5",
        "OUTPUT_DIR", str(tmp_path_factory.mktemp("output")),
    ]  # fmt: skip
    cfg = get_config(RECIPE, opts)
    torch.manual_seed(1)
    weights = tmp_path_factory.mktemp("weights") / "model_final.pth"
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    cfg.MODEL.WEIGHTS = str(weights)
    return cfg


@pytest.fixture(scope="module")
def packed(cfg, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "street"
    return pack(cfg, folder, license="cc-by-4.0", results=RESULTS)


@pytest.fixture
def copy(packed, tmp_path):
    """A copy of the folder, to damage."""
    return shutil.copytree(packed, tmp_path / "copy")


def test_the_folder_has_all_that_predicting_takes_and_no_path_of_this_machine(packed, cfg):
    assert {path.name for path in packed.iterdir()} == {
        "README.md", "config.yaml", "deepfuse_d2.json", "labels.json", "model.safetensors",
        "sample.json", "sample.png",
    }  # fmt: skip
    for path in packed.iterdir():
        if path.suffix != ".png" and path.suffix != ".safetensors":
            assert str(packed.parent) not in path.read_text()
            assert cfg.OUTPUT_DIR not in path.read_text()
    written = yaml.safe_load((packed / "config.yaml").read_text())
    assert written["MODEL"]["NECK"]["OUT_CHANNELS"] == 32
    assert not {"DATASETS", "OUTPUT_DIR", "SOLVER", "DATALOADER"} & set(written)
    assert not {"WEIGHTS", "DEVICE"} & set(written["MODEL"])


def test_a_predictor_of_the_folder_gives_what_one_of_config_and_weights_gives(packed, cfg):
    image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    expected, found = Predictor(cfg)(image), Predictor(packed)(image)
    assert len(found) == len(expected) == 5
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.pred_masks, expected.pred_masks)


def test_names_of_classes_come_along_without_a_data_set(packed):
    predictor = Predictor(packed)
    assert list(predictor.cfg.DATASETS.TEST) == []
    assert predictor.metadata.thing_classes[:3] == ["person", "rider", "car"]


def test_the_sample_shows_what_the_model_gives(packed):
    again = Predictor(packed, output="rle")(packed / "sample.png")
    written = json.loads((packed / "sample.json").read_text())
    assert [one["segmentation"] for one in again] == [one["segmentation"] for one in written]
    assert len(written) == 5


def test_the_card_has_facts_for_hubs_and_words_for_readers(packed):
    text = (packed / "README.md").read_text()
    _, facts, words = text.split("---\n", 2)
    facts = yaml.safe_load(facts)
    assert facts["license"] == "cc-by-4.0"
    assert facts["pipeline_tag"] == "image-segmentation"
    (result,) = facts["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "segm/AP", "name": "AP", "value": 16.7}
    assert "| minicity_fine_instance_seg_val | segm | AP50 | 34.25 |" in words
    assert "AP-car" not in text
    assert "M parameters" in words
    assert "G multiply-adds" in words
    assert "0 person, 1 rider" in words


def test_model_weights_may_be_the_folder(packed, cfg):
    model = build_model(load_config(str(packed), ["MODEL.DEVICE", "cpu"]))
    DeepFuseCheckpointer(model).load(str(packed))
    expected = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert str(packed) == load_config(str(packed)).MODEL.WEIGHTS
    assert load_config(str(packed), ["MODEL.WEIGHTS", "x.pth"]).MODEL.WEIGHTS == "x.pth"


def test_a_folder_of_another_network_says_which_one_it_is(packed):
    other = build_model(
        get_config("MiniCity/sem_seg_R_50_narrow_ExFuse_quick", ["MODEL.DEVICE", "cpu"])
    )
    with pytest.raises(
        WeightsError, match=r"holds a GeneralizedRCNN with build_neck_backbone, .*FPN"
    ):
        DeepFuseCheckpointer(other).load(str(packed))


def test_a_folder_that_is_packed_again_keeps_its_labels(packed, tmp_path):
    again = pack(load_config(str(packed), ["MODEL.DEVICE", "cpu"]), tmp_path / "again")
    assert (again / "labels.json").read_text() == (packed / "labels.json").read_text()
    assert (again / "config.yaml").read_text() == (packed / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "labels.json", "sample.json"])
def test_a_changed_file_is_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(DamagedWeightsError, match=rf"{name} is not as it was written"):
        open_folder(copy)


def test_a_predictor_notices_damaged_weights(copy):
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(DamagedWeightsError, match=r"model\.safetensors is not as it was written"):
        Predictor(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "labels.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(DamagedWeightsError, match=rf"has no file {name}: it is incomplete"):
        Predictor(copy)


def change_mark(folder, **changes):
    mark = json.loads((folder / "deepfuse_d2.json").read_text())
    (folder / "deepfuse_d2.json").write_text(json.dumps(mark | changes))


def test_a_folder_of_a_newer_version_says_so(copy):
    change_mark(copy, version=2, written_by="deepfuse_d2 9.0")
    with pytest.raises(WeightsError, match=r"of version 2; .*up to 1\. Install .*deepfuse_d2 9\.0"):
        Predictor(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {"../secret": "0"}}, "does not name the files of a model"),
        (
            {"files": {"config.yaml": "", "model.safetensors": "", "labels.json": "", "../s": ""}},
            r"has no file \.\./s",
        ),
    ],
)
def test_a_file_outside_of_the_folder_is_never_looked_at(copy, changes, message):
    (copy.parent / "s").write_text("")
    change_mark(copy, **changes)
    with pytest.raises(DamagedWeightsError, match=message):
        open_folder(copy, verify=False)


def test_a_mark_that_is_cut_short_is_named(copy):
    (copy / "deepfuse_d2.json").write_text('{"version": 1')
    with pytest.raises(
        DamagedWeightsError, match=r"deepfuse_d2\.json of the model .* cannot be read"
    ):
        open_folder(copy)


def test_a_folder_of_something_else_is_no_model(tmp_path):
    with pytest.raises(WeightsError, match=r"without deepfuse_d2\.json, so no model"):
        Predictor(tmp_path)


def test_only_a_model_is_replaced_and_only_when_asked(cfg, copy, tmp_path):
    with pytest.raises(ConfigError, match=r"copy exists; give another --output, or --overwrite"):
        pack(cfg, copy)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").touch()
    with pytest.raises(WeightsError, match="without deepfuse_d2"):
        pack(cfg, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "photo.png").exists()
    pack(cfg, copy, overwrite=True, name="anew")
    assert "# anew" in (copy / "README.md").read_text()


def test_weights_must_be_given(cfg, tmp_path):
    without = cfg.clone()
    without.MODEL.WEIGHTS = ""
    with pytest.raises(WeightsError, match="no weights to pack"):
        pack(without, tmp_path / "x")


def test_an_absolute_path_in_any_key_stays_out(cfg):
    changed = cfg.clone()
    changed.MODEL.KEYPOINT_ON = True
    changed.MODEL.NECK.NORM = "/home/somebody/norm"
    assert "/home" not in json.dumps(difference(changed))
    assert difference(changed)["MODEL"]["KEYPOINT_ON"] is True


def test_labels_of_pixels_are_a_picture(tmp_path):
    small = ["MODEL.NECK.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"]
    small += ["MODEL.DEVICE", "cpu"]
    cfg = get_config("MiniCity/sem_seg_R_18_SemSegFPN_quick", small)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "w.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "w.pth")
    folder = pack(cfg, tmp_path / "labels")
    labels = cv2.imread(str(folder / "sample_labels.png"), cv2.IMREAD_GRAYSCALE)
    assert labels.shape == cv2.imread(str(folder / "sample.png")).shape[:2]
    np.testing.assert_array_equal(labels, Predictor(folder)(folder / "sample.png"))
    assert Predictor(folder).metadata.stuff_classes[0] == "road"


def test_the_commands_pack_and_predict(deepfuse, cfg, tiny_opts, tmp_path, capsys):
    words = ["--config-file", RECIPE, "--weights", cfg.MODEL.WEIGHTS, "--output", tmp_path / "m"]
    assert deepfuse("pack", *words, *tiny_opts, "MODEL.WEIGHTS", cfg.MODEL.WEIGHTS) == 0
    assert f"Packed as {tmp_path / 'm'}" in capsys.readouterr().out
    given = ["--model", tmp_path / "m", "--input", tmp_path / "m" / "sample.png"]
    assert deepfuse("predict", *given, "--output", tmp_path / "results", "--threshold", 0) == 0
    assert cv2.imread(str(tmp_path / "results" / "sample.png")).shape == (256, 512, 3)
    with pytest.raises(SystemExit):
        deepfuse("predict", *given, "--output", tmp_path, "--weights", "x.pth")
    assert "give --model, or --config-file and --weights" in capsys.readouterr().err


def test_the_command_shows_what_integers_cost(deepfuse, cfg, tmp_path, monkeypatch, capsys):
    setup_logger.cache_clear()  # a logger set up before writes to what that test captured
    costs = Costs({"segm AP": (30.0, 29.9)}, (20.0, 10.0), 2.0, (40.0, 10.0))
    monkeypatch.setattr(packing, "quantize", lambda *_: ([], costs))
    monkeypatch.setattr(
        pack_command, "calibration", lambda *_: packing.Calibration([], lambda _: {})
    )
    (tmp_path / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    deepfuse("pack", "--config-file", tmp_path / "config.yaml", "--weights", cfg.MODEL.WEIGHTS,
             "--output", tmp_path / "packed", "--int8")  # fmt: skip
    assert costs.table() in capsys.readouterr().out


def test_a_training_packs_at_its_end_what_eval_takes(tiny_minicity, tiny_opts, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "deepfuse_d2", "train", RECIPE, "--pack",
         *tiny_opts, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path)],
        env={**os.environ, "DETECTRON2_DATASETS": str(tiny_minicity)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"Packed as {tmp_path / 'model'}" in done.stdout
    expected = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    found = Predictor(tmp_path / "model", optimize=False).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert (
        "| minicity_fine_instance_seg_val | segm | AP |"
        in (tmp_path / "model" / "README.md").read_text()
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "deepfuse_d2", "eval", str(tmp_path / "model"),
         "OUTPUT_DIR", str(tmp_path / "evaluated"), "MODEL.DEVICE", "cpu",
         "DATASETS.TEST", "('minicity_fine_instance_seg_val',)", "DATALOADER.NUM_WORKERS", "0"],
        env={**os.environ, "DETECTRON2_DATASETS": str(tiny_minicity)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Instance AP on 2 images" in done.stdout + done.stderr
