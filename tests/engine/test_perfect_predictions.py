"""Every format that is accepted, evaluated by the command: perfect predictions score 100."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from deepfuse_d2.checkpoint.writing import write_torch
from deepfuse_d2.cli.main import main
from deepfuse_d2.data import register_extra
from deepfuse_d2.evaluation.perfect import perfect_output
from tests.data.forms import (
    CHANGED_FORMS,
    FORMS,
    KEYPOINT_FORMS,
    LABEL_FORMS,
    OKS_SIGMAS,
    REFUSED_FORMS,
)

NAME = "own_val"


class PerfectModel(nn.Module):
    """Predicts the ground truth of the data set."""

    predicts = ("instances",)
    num_classes = 2

    def __init__(self, cfg):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        records = {record["file_name"]: record for record in DatasetCatalog.get(NAME)}
        return [perfect_output(records[entry["file_name"]]) for entry in batch]


@pytest.fixture(autouse=True)
def _registered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    META_ARCH_REGISTRY._obj_map["PerfectModel"] = PerfectModel
    yield
    del META_ARCH_REGISTRY._obj_map["PerfectModel"]
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


ALL = {**FORMS, **LABEL_FORMS, **KEYPOINT_FORMS, **CHANGED_FORMS}


@pytest.mark.parametrize("form", [name for name in ALL if name not in REFUSED_FORMS])
def test_perfect_predictions_score_100_through_the_command(tmp_path, form):
    configure(ALL[form](tmp_path))
    records = DatasetCatalog.get(NAME)
    single = [a for record in records for a in record["annotations"] if not a["iscrowd"]]
    tasks = ["bbox"]
    tasks += ["segm"] * any("segmentation" in one for one in single)
    tasks += ["keypoints"] * any("keypoints" in one for one in single)
    expected = [[task, "AP", 100.0, 0.01] for task in tasks]
    command = ["train", "--config-file", "my.yaml", "--eval-only", "TEST.EXPECTED_RESULTS"]
    assert main([*command, str(expected)]) == 0
    found = json.loads((tmp_path / f"out/inference/{NAME}/coco_instances_results.json").read_text())
    assert len(found) == len(single)


@pytest.mark.parametrize("form", sorted(REFUSED_FORMS))
def test_what_cannot_be_read_ends_in_one_message_through_the_command(tmp_path, form, capsys):
    configure(ALL[form](tmp_path), register=False)
    with pytest.raises(SystemExit) as end:
        main(["train", "--config-file", "my.yaml", "--eval-only"])
    assert end.value.code == 2
    assert f'Data set "{NAME}": ' in capsys.readouterr().err


def configure(entry, register=True):
    """Write my.yaml and weights.pth; the number of classes is the data set's."""
    write_torch("weights.pth", {"model": {"weight": torch.zeros(1)}})
    entry = {"NAME": NAME, **entry}
    if register:
        register_extra([entry])
        DatasetCatalog.get(NAME)
        PerfectModel.num_classes = len(MetadataCatalog.get(NAME).thing_classes)
    config = {
        "MODEL": {"META_ARCHITECTURE": "PerfectModel", "DEVICE": "cpu", "WEIGHTS": "weights.pth"},
        "DATASETS": {"EXTRA": [entry], "TRAIN": [], "TEST": [NAME]},
        "DATALOADER": {"NUM_WORKERS": 0},
        "TEST": {"KEYPOINT_OKS_SIGMAS": OKS_SIGMAS},
        "OUTPUT_DIR": "out",
    }
    Path("my.yaml").write_text(yaml.safe_dump(config))
