"""deepfuse init: a config that fits the data, from whatever people have."""

import re
import time
import types

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.cli.main import main
from deepfuse_d2.config.building import build_model
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.config.start_weights import choose_weights
from deepfuse_d2.data.guessing import find_data
from deepfuse_d2.engine import Trainer
from deepfuse_d2.engine.hooks.time_budget import seconds_of
from deepfuse_d2.errors import ConfigError, DatasetError
from tests.data.forms import FORMS

RANDOM = ["--weights", "random"]


@pytest.fixture(autouse=True)
def _catalogs_stay_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def path_of(form, folder):
    entry = FORMS[form](folder)
    return entry.get("JSON") or entry.get("XML") or entry.get("DATA") or entry.get("ROOT")


@pytest.mark.parametrize("form", [x for x in FORMS if "VOC" not in x])
def test_every_format_is_recognised_and_gets_a_config_that_loads(tmp_path, form, capsys):
    assert main(["init", path_of(form, tmp_path), "-o", "my.yaml", "--time", "90s", *RANDOM]) == 0
    assert "objects of" in capsys.readouterr().out
    cfg = load_config("my.yaml")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert cfg.DEEPFUSE_D2.SOLVER.TIME_BUDGET == "90s"
    # random weights: nothing of them is frozen
    assert (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.RESNETS.NORM) == (0, "GN")
    counts = [len(DatasetCatalog.get(name)) for name in ("own_train", "own_val")]
    assert sum(counts) == 3
    assert min(counts) >= 1
    assert main(["init", "anything", "-o", "my.yaml"]) == 2
    assert "is there already; --force" in capsys.readouterr().err


def test_a_training_by_such_a_config_ends_in_its_time(tmp_path, tiny_opts, caplog, monkeypatch):
    # seconds of the processor: the machine may be busy with something else
    clock = types.SimpleNamespace(monotonic=time.process_time)
    monkeypatch.setattr("deepfuse_d2.engine.hooks.time_budget.time", clock)
    for number in range(6):
        ids = np.zeros((64, 64), np.uint16)
        ids[8:30, 10:30] = 1
        ids[36:60, 20:50] = 2
        for folder, image in (("images", np.dstack([ids * 90] * 3).astype(np.uint8)),
                              ("instances", ids)):  # fmt: skip
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{number}.png")
    assert main(["init", str(tmp_path), "-o", "my.yaml", "--time", "6s", *RANDOM]) == 0
    cfg = load_config("my.yaml", [*tiny_opts, "MODEL.RESNETS.NORM", "BN"])
    trainer = Trainer(cfg)
    with caplog.at_level("INFO"):
        results = trainer.train()
    assert set(results) == {"bbox", "segm"}
    assert 5 < trainer.iter < 2000
    assert trainer.optimizer.param_groups[0]["lr"] < 0.2 * cfg.SOLVER.BASE_LR
    for told in ("The time is up", "iterations fit into the 6 s", "First iteration:"):
        assert told in caplog.text
    assert (tmp_path / cfg.OUTPUT_DIR / "model_final.pth").is_file()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), ("", 0)]
)
def test_times_are_read_with_their_units(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "1x", "30 minutes", "-5m"])
def test_a_time_without_a_unit_is_refused(text):
    with pytest.raises(ConfigError, match='is no time; give it as "90s"'):
        seconds_of(text)


def test_what_is_no_data_set_says_what_would_be(tmp_path):
    with pytest.raises(DatasetError, match="does not exist, and is no registered data set"):
        find_data("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no data\.yaml .YOLO., no SegmentationObject"):
        find_data(str(tmp_path / "empty"))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"no images beside .* --images FOLDER"):
        find_data(str(tmp_path / "x.json"))
    assert find_data("pennfudan_train").val == "pennfudan_val"


def _resnet18_file(path):
    """A file as torchvision's server has it, of random numbers."""
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), path)
    return path


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Caches of this test alone, and no network."""
    import huggingface_hub

    def refused(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub" / "checkpoints"
    torch.hub._hub_dir = None


def test_weights_by_a_name_of_torchvision_are_taken_and_converted(tmp_path, offline):
    offline.mkdir(parents=True)
    _resnet18_file(offline / "resnet18-f37072fd.pth")
    path = path_of("COCO, polygons", tmp_path)
    assert main(["init", path, "-o", "my.yaml", "--device", "cpu"]) == 0
    cfg = load_config("my.yaml")
    assert cfg.MODEL.WEIGHTS == "torchvision://resnet18"
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM) == (18, "FrozenBN")
    model = build_model(cfg)
    DeepFuseCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    stored = torch.load(offline / "resnet18-f37072fd.pth", weights_only=True)
    found = model.backbone.bottom_up.res5[1].conv2.weight
    assert torch.equal(found, stored["layer4.1.conv2.weight"])


def test_where_nothing_can_be_fetched_the_start_is_random_and_one_message_says_why(
    tmp_path, offline, caplog
):
    path = path_of("COCO, polygons", tmp_path)
    assert main(["init", path, "-o", "my.yaml", "--device", "cpu"]) == 0
    (told,) = [x for x in caplog.messages if "weights" in x]
    assert "torchvision://resnet18 cannot be fetched (no network here)" in told
    assert "timm://resnet18 cannot be fetched" in told
    cfg = load_config("my.yaml")
    assert (cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.FREEZE_AT) == ("", 0)
    assert cfg.MODEL.RESNETS.NORM == "GN"


def test_what_timm_has_is_the_next_choice(tmp_path, offline, monkeypatch):
    import huggingface_hub

    file = _resnet18_file(tmp_path / "timm.pth")
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *names: asked.append(names) or str(file)
    )
    path = path_of("COCO, polygons", tmp_path)
    assert main(["init", path, "-o", "my.yaml", "--device", "cpu"]) == 0
    assert load_config("my.yaml").MODEL.WEIGHTS == "timm://resnet18"
    assert asked == [("timm/resnet18.a1_in1k", "model.safetensors")]
    # any other network of timm is built by timm
    assert main(["init", path, "-o", "x.yaml", "--weights", "timm://convnext_atto"]) == 0
    cfg = load_config("x.yaml")
    assert cfg.MODEL.NECK.BOTTOM_UP == "build_timm_backbone"
    assert (cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.PRETRAINED) == ("convnext_atto", True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("nowhere.pth", "--weights nowhere.pth does not exist"),
        ("resnet99", 'torchvision has no model "resnet99"'),
        ("torchvision://resnet18.V7", 'no weights "V7" of resnet18, but .*IMAGENET1K_V1'),
        ("timm://resnet18", "timm://resnet18 cannot be fetched .no network here"),
    ],
)
def test_weights_that_are_asked_for_and_cannot_be_had_are_one_message(
    tmp_path, offline, asked, message, capsys
):
    path = path_of("COCO, polygons", tmp_path)
    assert main(["init", path, "-o", "my.yaml", "--weights", asked]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_depth_of_a_resnet_is_read_off_its_file(tmp_path):
    from torchvision.models import resnet34

    torch.save(resnet34().state_dict(), tmp_path / "x.pth")
    assert choose_weights(str(tmp_path / "x.pth"), "cpu").depth == 34
    torch.save({"weight": torch.zeros(1)}, tmp_path / "y.pth")
    with pytest.raises(ConfigError, match="holds no ResNet of depth"):
        choose_weights(str(tmp_path / "y.pth"), "cpu")
