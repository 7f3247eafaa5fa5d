"""TEST.AUG and TEST.EXPECTED_RESULTS in a training and in an evaluation alone."""

import json

import pytest
from test_watching import config, data, fields  # noqa: F401  (fixtures)

from deepfuse_d2.engine import Trainer
from deepfuse_d2.errors import ConfigError

AUG = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (64,), "TEST.AUG.MAX_SIZE", 128)


def short(name, folder, *overrides):
    cfg = config(name, folder)
    cfg.merge_from_list([
        "SOLVER.MAX_ITER", 1, "MODEL_EMA.ENABLED", False, "MONITOR.VALIDATION_LOSS_PERIOD", 0,
        "MONITOR.PICTURES_PERIOD", 0, "MONITOR.WRITERS", ["json"], *overrides,
    ])  # fmt: skip
    return cfg


def test_a_training_ends_with_an_evaluation_under_augmentation(tmp_path):
    trainer = Trainer(short("GeneralizedRCNN", tmp_path, *AUG))
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert {"bbox", "segm", "bbox_TTA", "segm_TTA"} <= set(results)
    written = json.loads((tmp_path / "results.json").read_text())["results"]
    assert {"bbox", "bbox_TTA"} <= set(next(iter(written.values())))
    assert "bbox_TTA/AP" in trainer.storage.latest()


def test_an_evaluation_alone_is_augmented_too(tmp_path):
    cfg = short("GeneralizedRCNN", tmp_path, *AUG)
    results = Trainer.evaluate(cfg, Trainer.build_model(cfg))
    assert {"bbox", "segm", "bbox_TTA", "segm_TTA"} <= set(results)
    assert list(tmp_path.glob("TTA/inference/*/coco_instances_results.json"))
    cfg.TEST.AUG.ENABLED = False
    assert set(Trainer.evaluate(cfg, Trainer.build_model(cfg))) == {"bbox", "segm"}


@pytest.mark.parametrize("name", ["RetinaNet", "FusionSemanticSegmentor"])
def test_augmentation_that_a_model_does_not_have_is_refused_at_once(tmp_path, name):
    cfg = short(name, tmp_path, *AUG)
    with pytest.raises(ConfigError, match=rf"but {name} has no .* DEEPFUSE_D2\.TEST\.SEM_SEG"):
        Trainer(cfg)
    with pytest.raises(ConfigError, match=r"TEST\.AUG\.ENABLED is True"):
        Trainer.evaluate(cfg, None)


def test_expected_results_that_do_not_come_end_the_evaluation(tmp_path):
    cfg = short("GeneralizedRCNN", tmp_path, "TEST.EXPECTED_RESULTS", [["bbox", "AP", 90.0, 1.0]])
    with pytest.raises(SystemExit):
        Trainer.evaluate(cfg, Trainer.build_model(cfg))
