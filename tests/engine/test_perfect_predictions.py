"""Every format that is accepted, evaluated by the command: perfect predictions score 100."""

import json

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from deepfuse_d2.checkpoint.writing import write_torch
from deepfuse_d2.cli.main import main
from deepfuse_d2.evaluation.perfect import perfect_output
from tests.data.forms import FORMS

NAME = "own_val"


class PerfectModel(nn.Module):
    """Predicts the ground truth of the data set."""

    predicts = ("instances",)

    def __init__(self, cfg):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.num_classes = 2

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


@pytest.mark.parametrize("form", FORMS)
def test_perfect_predictions_score_100_through_the_command(tmp_path, form):
    write_torch("weights.pth", {"model": {"weight": torch.zeros(1)}})
    config = {
        "MODEL": {"META_ARCHITECTURE": "PerfectModel", "DEVICE": "cpu", "WEIGHTS": "weights.pth"},
        "DATASETS": {"EXTRA": [{"NAME": NAME, **FORMS[form](tmp_path)}], "TRAIN": [],
                     "TEST": [NAME]},
        "DATALOADER": {"NUM_WORKERS": 0},
        "TEST": {"EXPECTED_RESULTS": [["bbox", "AP", 100.0, 0.01], ["segm", "AP", 100.0, 0.01]]},
        "OUTPUT_DIR": "out",
    }  # fmt: skip
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--config-file", "my.yaml", "--eval-only"]) == 0
    found = json.loads((tmp_path / f"out/inference/{NAME}/coco_instances_results.json").read_text())
    assert len(found) == 3
