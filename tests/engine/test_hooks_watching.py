"""Validation loss, pictures, averaged weights, throughput and memory of a training."""

import contextlib
import random
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from deepfuse_d2.engine import Trainer, load_config
from deepfuse_d2.engine.hooks import EvaluateAverage, PeakMemory, PredictionPictures, Throughput
from deepfuse_d2.engine.hooks.prediction_pictures import build_picture_samples
from deepfuse_d2.engine.hooks.validation_loss import (
    ValidationLoss,
    build_validation_loaders,
    computing_losses,
    mean_losses,
)
from deepfuse_d2.errors import ConfigError


def registered(hook, **trainer):
    """`hook` with a trainer that stands at iteration 0 of 10."""
    defaults = {"iter": 0, "start_iter": 0, "max_iter": 10, "storage": EventStorage()}
    hook.trainer = SimpleNamespace(**{**defaults, **trainer})
    return hook


class Learner(nn.Module):
    """BatchNorm, dropout, random numbers: all that an evaluation may upset."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))

    def forward(self, batch):
        if not self.training or not self.head.training:
            return ["predictions"]
        x = torch.stack([entry["image"] for entry in batch])
        noise = torch.rand(1)
        random.random()
        np.random.rand()  # noqa: NPY002
        return {"loss_a": self.head(self.backbone(x)).pow(2).mean(), "loss_b": noise.sum()}


def images(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [{"image": torch.randn(3, 8, 8, generator=generator)} for _ in range(count)]


def generators():
    numbers = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numbers[1].tolist(), numbers[2], torch.get_rng_state().tolist()


def test_the_validation_loss_is_the_mean_over_images_and_leaves_no_trace():
    model = Learner().train()
    model.head[1].eval()  # a part that somebody holds still
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    data = images(5)
    hook = registered(ValidationLoss(2, model, lambda: {"val": [data[:2], data[2:4], data[4:]]}))
    before = generators()
    measured = hook.measure()
    assert generators() == before
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())

    # the reference: norms and dropout as in evaluation, one image after the other
    total = 0.0
    with torch.no_grad():
        for entry in data:
            x = entry["image"][None].double()
            reference = Learner().double()
            reference.load_state_dict(model.state_dict())
            reference.eval()
            total += reference.head(reference.backbone(x)).pow(2).mean().item() / len(data)
    assert measured["validation/loss_a"] == pytest.approx(total, rel=1e-5)
    latest = hook.trainer.storage.latest()
    sum_of_parts = measured["validation/loss_a"] + measured["validation/loss_b"]
    assert latest["validation/total_loss"][0] == pytest.approx(sum_of_parts)
    assert hook.measure() == measured


def test_several_data_sets_are_told_apart():
    hook = registered(
        ValidationLoss(2, Learner(), lambda: {"a": [images(2)], "b": [images(2, seed=2)]})
    )
    measured = hook.measure()
    assert {"validation/a/loss_a", "validation/b/loss_a"} <= set(measured)
    parts = [measured[f"validation/{d}/loss_{k}"] for d in "ab" for k in "ab"]
    assert measured["validation/total_loss"] == pytest.approx(sum(parts) / 2)


def test_it_is_measured_by_its_period_and_at_the_end_but_not_after_a_failure():
    hook = registered(ValidationLoss(3, Learner(), lambda: {"val": [images(1)]}), max_iter=6)
    measured = []
    hook.measure = lambda: measured.append(hook.trainer.iter)
    for hook.trainer.iter in range(6):
        hook.after_step()
    hook.after_train()  # the last step failed
    assert measured == [2]
    hook.trainer.iter = 6
    hook.after_train()
    assert measured == [2, 6]


def test_modes_return_after_an_error():
    model = Learner().train()
    with contextlib.suppress(ZeroDivisionError), computing_losses(model):
        assert model.training
        assert model.head.training
        assert not any(module.training for module in model.backbone.modules())
        assert not any(module.training for module in model.head.children())
        raise ZeroDivisionError
    assert all(module.training for module in model.modules())


SEMANTIC = "configs/MiniCity/sem_seg_R_18_SemSegFPN_quick.yaml"
SEMANTIC_TINY = ["MODEL.NECK.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"]
R_CNN = "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml"


@pytest.fixture
def load(repository, tiny_minicity, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_minicity))

    def load(config, *overrides):
        common = ["DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path)]
        return load_config(config, [*common, *overrides])

    return load


@pytest.mark.parametrize("config", ["semantic", "r_cnn"])
def test_models_of_both_kinds_give_the_same_losses_twice_and_keep_their_statistics(
    load, tiny_opts, config
):
    if config == "semantic":
        cfg = load(SEMANTIC, *SEMANTIC_TINY, "INPUT.MIN_SIZE_TEST", "64")
    else:
        norms = ["MODEL.RESNETS.NORM", "BN", "MODEL.NECK.NORM", "BN"]
        cfg = load(R_CNN, *tiny_opts, *norms)
    cfg.MONITOR.VALIDATION_LOSS_IMAGES = 1
    model = Trainer.build_model(cfg).train()
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    (loader,) = build_validation_loaders(cfg).values()
    assert len(loader) == 1
    first = mean_losses(model, loader)
    assert first == mean_losses(model, loader)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    expected = {"loss_sem_seg"} if config == "semantic" else {"loss_mask", "loss_rpn_cls"}
    assert expected <= set(first)
    assert all(np.isfinite(value) for value in first.values())


def test_data_sets_without_labels_give_no_validation_loss(load):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    name = "hooks_watching_unlabelled"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(has_labels=False)
    try:
        cfg = load("", "DATASETS.TEST", f"('{name}',)", "MODEL.DEVICE", "cpu")
        with pytest.raises(ConfigError, match=r"no data set of DATASETS.TEST .* has labels"):
            build_validation_loaders(cfg)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


class Predictor(nn.Module):
    """Finds one instance and the class 1 everywhere."""

    def forward(self, batch):
        torch.rand(1)
        assert not self.training
        height, width = batch[0]["height"], batch[0]["width"]
        found = Instances((height, width))
        found.pred_boxes = Boxes(torch.tensor([[4.0, 4, 60, 60], [70, 4, 120, 60]]))
        found.scores = torch.tensor([0.9, 0.1])
        found.pred_classes = torch.tensor([0, 0])
        found.pred_masks = torch.zeros(2, height, width, dtype=torch.bool)
        found.pred_masks[:, 10:50, 10:50] = True
        logits = F.one_hot(torch.ones(height, width, dtype=torch.long), 19).permute(2, 0, 1)
        return [{"instances": found, "sem_seg": logits.float()}]


def test_pictures_of_predictions_go_to_a_folder_and_into_the_storage(load, tmp_path):
    cfg = load(SEMANTIC, "MONITOR.PICTURES", "2", "INPUT.MIN_SIZE_TEST", "64")
    samples = build_picture_samples(cfg)
    assert len(samples) == 2
    model = Predictor().train()
    hook = registered(PredictionPictures(5, model, samples, tmp_path / "pictures"))
    before = generators()
    for hook.trainer.iter in range(10):
        hook.after_step()
    assert generators() == before
    assert model.training
    files = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*.png"))
    assert len(files) == 2 * 2 * 2  # rounds, samples, kinds
    assert files[0].startswith("pictures/0000005/minicity_fine_sem_seg_val_")
    shown = hook.trainer.storage._vis_data
    assert len(shown) == 8
    assert shown[0][1].shape == (3, 128, 256)
    original = cv2.imread(samples[0][1]["file_name"])
    drawn = cv2.imread(str(tmp_path / files[0]))
    changed = np.abs(drawn.astype(int) - original).max(axis=2) > 8
    assert changed[10:50, 10:50].mean() > 0.5
    assert not changed[70:, :].any()  # nor anything of the instance below the threshold


def test_averaged_weights_are_evaluated_under_names_of_their_own():
    weight = {"is": 1.0}

    @contextlib.contextmanager
    def averaged():
        weight["is"] = 2.0
        yield
        weight["is"] = 1.0

    hook = EvaluateAverage(2, nn.Linear(1, 1), lambda: {"segm": {"AP": weight["is"]}}, averaged)
    registered(hook, iter=1)
    hook.after_step()
    assert hook.trainer.storage.latest()["ema/segm/AP"][0] == 2.0
    assert hook.results == {"segm": {"AP": 2.0}}
    assert weight["is"] == 1.0
    hook.evaluate = lambda: None  # as off the main process
    hook.after_step()


def test_throughput_and_the_share_of_waiting_come_from_the_timers(caplog):
    hook = registered(Throughput(8))
    storage = hook.trainer.storage
    for iteration in range(5):
        hook.trainer.iter = storage.iter = iteration
        storage.put_scalars(time=0.5, data_time=0.1)
        hook.after_step()
    assert storage.latest()["images_per_second"] == (16.0, 4)
    assert storage.latest()["data_wait_share"][0] == pytest.approx(0.2)
    hook.trainer.iter = storage.iter = 5
    storage.put_scalars(data_time=0.1)  # the timer says nothing of this one
    hook.after_step()
    assert storage.latest()["images_per_second"] == (16.0, 4)
    with caplog.at_level("INFO"):
        hook.after_train()
    assert "16.00 images/s over 2 iterations; 20% of the time" in caplog.text


def test_peak_memory_of_the_process_grows_with_what_it_holds(caplog):
    hook = registered(PeakMemory("cpu", period=2), iter=1)
    hook.after_step()
    before = hook.trainer.storage.latest()["peak_memory_mib"][0]
    assert before > 50  # torch alone
    held = np.ones(64 * 2**20 // 8 + int(before) * 2**17)  # 64 MiB more than the peak
    assert hook.read()["peak_memory_mib"] >= before + 32
    del held
    hook.trainer.iter = 10
    with caplog.at_level("INFO"):
        hook.after_train()
    assert "MiB on cpu" in caplog.text
