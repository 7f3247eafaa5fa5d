"""Which evaluator a data set gets."""

import importlib.util

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators

from deepfuse_d2.engine import build_evaluator
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.evaluation import COCOInstanceEvaluator, SemSegEvaluator

NAME = "evaluators_panoptic"


@pytest.fixture
def panoptic(tmp_path):
    json_file = tmp_path / "instances.json"
    json_file.write_text('{"images": [], "annotations": [], "categories": []}')
    DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).set(
        evaluator_type="coco_panoptic_seg",
        json_file=str(json_file),
        thing_dataset_id_to_contiguous_id={1: 0},
        stuff_dataset_id_to_contiguous_id={0: 0, 92: 1},
        thing_classes=["person"],
        stuff_classes=["things", "banner"],
        ignore_label=255,
    )
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_a_panoptic_data_set_is_evaluated_in_all_its_parts(panoptic, monkeypatch, caplog):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: n == "panopticapi" or find_spec(n))
    found = build_evaluator(NAME, str(panoptic))
    assert isinstance(found, DatasetEvaluators)
    kinds = [type(x).__name__ for x in found._evaluators]
    assert kinds == ["COCOInstanceEvaluator", "SemSegEvaluator", "COCOPanopticEvaluator"]


def test_without_its_package_panoptic_quality_alone_is_left_out(panoptic, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = build_evaluator(NAME, str(panoptic))
    assert [type(x) for x in found._evaluators] == [COCOInstanceEvaluator, SemSegEvaluator]
    assert "Panoptic quality of evaluators_panoptic is left out: it needs" in caplog.text


def test_a_data_set_of_another_kind_names_the_kinds_there_are():
    name = "evaluators_unknown"
    MetadataCatalog.get(name).set(evaluator_type="lvis")
    try:
        with pytest.raises(ConfigError, match=r"evaluator_type 'lvis' .* there are evaluators for"):
            build_evaluator(name, "")
    finally:
        MetadataCatalog.remove(name)
