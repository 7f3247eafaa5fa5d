"""deepfuse submission and train_net.py --eval-only on images without labels."""

import zipfile

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from deepfuse_d2.engine import load_config

FRAMES = ("bonn_000000_000019", "bonn_000001_000019")
CONFIG = "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml"
TINY = [
    "MODEL.DEVICE", "cpu", "MODEL.NECK.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1",
    "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0", "MODEL.NECK.NORM", "",
]  # fmt: skip


@pytest.fixture
def town(tmp_path):
    """DATASETS.EXTRA for two images without labels."""
    for frame in FRAMES:
        path = tmp_path / "town" / "leftImg8bit" / "test" / "bonn" / f"{frame}_leftImg8bit.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((80, 40), 60).convert("RGB").save(path)
    entry = {"NAME": "my_test", "FORMAT": "cityscapes_instances", "SPLIT": "test"}
    yield ["DATASETS.EXTRA", str([{**entry, "ROOT": str(tmp_path / "town")}])]
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop("my_test", None)


@pytest.fixture
def weights(repository, tmp_path):
    torch.manual_seed(0)
    model = build_model(load_config(str(repository / CONFIG), TINY))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_a_test_split_by_path_becomes_a_zip_to_upload(
    deepfuse, repository, town, weights, tmp_path, capsys
):
    out = tmp_path / "out"
    command = [
        "--config-file", str(repository / CONFIG), "--weights", str(weights),
        "--output", str(out), "--dataset", "my_test",
    ]  # fmt: skip
    # every class has the same score at the start: let some through
    opts = [*TINY, *town, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.05"]
    assert deepfuse("submission", *command, *opts) == 0
    with zipfile.ZipFile(out / "results.zip") as archive:
        names = archive.namelist()
    assert {f"{frame}_pred.txt" for frame in FRAMES} <= set(names)
    assert any(name.startswith("masks/") for name in names)
    capsys.readouterr()

    assert deepfuse("submission", *command, *opts) == 2
    assert f"deepfuse submission: {out} exists and is not empty" in capsys.readouterr().err
    assert deepfuse("submission", *command, "--overwrite", *opts) == 0


def test_mistakes_are_answered_without_a_trace(deepfuse, repository, weights, tmp_path, capsys):
    command = ["--config-file", str(repository / CONFIG), "--weights", str(weights)]
    command += ["--output", str(tmp_path / "out")]
    assert (
        deepfuse("submission", *command, "--dataset", "cityscapes_fine_instance_seg_tets", *TINY)
        == 2
    )
    assert "Did you mean: cityscapes_fine_instance_seg_test" in capsys.readouterr().err
    assert deepfuse("submission", *command, "--dataset", "pennfudan_val", *TINY) == 2
    assert "No submission is known for data set" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
