"""Semantic segmentation from the quick config to a predictor, on a few tiny frames."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor

from deepfuse_d2.engine import Trainer, load_config
from deepfuse_d2.errors import ConfigError

QUICK = "configs/MiniCity/sem_seg_R_18_SemSegFPN_quick.yaml"
TINY = [
    "MODEL.NECK.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
    "INPUT.CROP.SIZE", "[64, 128]", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2",
    "SOLVER.WARMUP_ITERS", "0", "DATALOADER.NUM_WORKERS", "0", "SOLVER.AMP.ENABLED", "False",
]  # fmt: skip


@pytest.fixture
def quick(repository, tiny_minicity, tmp_path, monkeypatch):
    """Config of the quick recipe with a tiny network and tiny crops."""
    monkeypatch.chdir(repository)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_minicity))

    def load(*overrides):
        return load_config(QUICK, [*TINY, "OUTPUT_DIR", str(tmp_path), *overrides])

    return load


def test_a_semantic_model_is_trained_evaluated_and_served(quick, tiny_minicity, tmp_path):
    cfg = quick(
        "DEEPFUSE_D2.TEST.SEM_SEG.OUTPUT", "labels", "DEEPFUSE_D2.SOLVER.BACKBONE_MULTIPLIER", "0.5"
    )
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    before = trainer.model.sem_seg_head.predictor.weight.clone()
    results = trainer.train()
    assert 0 <= results["sem_seg"]["IoU"] <= 100
    assert not torch.equal(trainer.model.sem_seg_head.predictor.weight, before)
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {0.0}  # the polynomial has come to its end

    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    image = cv2.imread(str(next(tiny_minicity.rglob("*_leftImg8bit.png"))))
    labels = DefaultPredictor(cfg)(image)["sem_seg"]
    assert labels.shape == image.shape[:2]
    assert labels.dtype == torch.uint8
    cfg.DEEPFUSE_D2.TEST.SEM_SEG.OUTPUT = "logits"
    logits = DefaultPredictor(cfg)(image)["sem_seg"]
    assert logits.shape == (19, *image.shape[:2])
    assert np.array_equal(logits.argmax(dim=0).numpy(), labels.numpy())


def test_training_images_are_crops_of_the_recipe(quick):
    batch = next(iter(Trainer.build_train_loader(quick())))
    for entry in batch:
        assert entry["image"].shape == (3, 64, 128)
        assert entry["sem_seg"].shape == (64, 128)
        assert set(entry["sem_seg"].unique().tolist()) <= {*range(19), 255}


def test_it_trains_from_detectron2s_own_mapper(quick):
    from detectron2.data import DatasetMapper, build_detection_train_loader

    cfg = quick("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.CROP.ENABLED", "False")
    mapper = DatasetMapper(cfg, is_train=True)
    batch = next(iter(build_detection_train_loader(cfg, mapper=mapper)))
    losses = Trainer.build_model(cfg).train()(batch)
    assert list(losses) == ["loss_sem_seg"]
    assert torch.isfinite(losses["loss_sem_seg"])


def test_a_head_for_other_classes_than_the_data_sets_is_named_before_training(quick):
    with pytest.raises(ConfigError, match=r"NUM_CLASSES is 11; the data set minicity.* has 19"):
        Trainer.build_train_loader(quick("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "11"))
