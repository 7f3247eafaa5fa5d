"""A small M3Fusion learns MiniFields: what each source tells, what clouds and mix-ups cost."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from PIL import Image

from benchmarks.land_cover import accuracies, draw_sheet
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.data.datasets.pastis import load_pastis
from deepfuse_d2.data.mappers.series_mapper import SeriesMapper
from deepfuse_d2.data.minifields import Manifest, best_accuracies, generate_minifields
from deepfuse_d2.engine import Trainer
from deepfuse_d2.engine.hooks.prediction_pictures import PredictionPictures
from deepfuse_d2.inference import Predictor
from deepfuse_d2.inference.map_picture import class_colors


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The model of configs/MiniFields/m3fusion_quick.yaml, and entries of a few val scenes."""
    root = tmp_path_factory.mktemp("datasets")
    generate_minifields(root / "minifields", Manifest(num_train=32, num_val=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        output = root / "output"
        cfg = load_config(
            "configs/MiniFields/m3fusion_quick.yaml",
            ["OUTPUT_DIR", str(output), "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0",
             "DATASETS.TEST", "()", "MONITOR.WRITERS", "[]",
             "DEEPFUSE_D2.TEST.SEM_SEG.OUTPUT", "labels"],
        )  # fmt: skip
        output.mkdir()
        seed_all_rng(1)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        entries = [
            SeriesMapper("validate")(x) for x in DatasetCatalog.get("minifields_sem_seg_val")
        ]
    model = trainer.model.eval()
    return model, entries, best_accuracies(root / "minifields", (5,))


def _swapped(entries, *keys):
    """Each entry with the keys of another scene."""
    others = [*entries[1:], entries[0]]
    return [
        {**entry, **{key: other[key] for key in keys}}
        for entry, other in zip(entries, others, strict=True)
    ]


def test_the_fusion_knows_what_neither_source_can(trained):
    model, entries, best = trained
    found = accuracies(model, entries)
    assert found["series"] <= best["series"] + 3
    assert found["image"] <= best["image"] + 3
    assert found["sem_seg"] >= 90
    assert found["sem_seg"] >= max(found["series"], found["image"]) + 25


def test_the_source_of_another_scene_leaves_no_more_than_the_other_source(trained):
    model, entries, best = trained
    wrong_series = accuracies(model, _swapped(entries, "time_series", "dates", "usable"))
    wrong_image = accuracies(model, _swapped(entries, "image"))
    assert wrong_series["sem_seg"] <= best["image"] + 3
    assert wrong_image["sem_seg"] <= best["series"] + 3


def test_clouds_that_are_masked_cost_little_and_unmasked_ones_more(trained, tmp_path):
    model = trained[0]
    found = {}
    # the same fields on the same days, under clear and under cloudy skies
    for name, probability in (("clear", 0.0), ("cloudy", 0.6)):
        root = tmp_path / name
        generate_minifields(root, Manifest(num_train=0, num_val=4, cloud_probability=probability))
        records = load_pastis(root, (5,), num_classes=8, ignore_label=255, ratio=5)
        found[name] = [SeriesMapper("validate")(record) for record in records]
    unmasked = [{**x, "usable": torch.ones_like(x["usable"])} for x in found["cloudy"]]
    clear, masked, bright = (
        accuracies(model, x)["sem_seg"] for x in (found["clear"], found["cloudy"], unmasked)
    )
    assert clear - masked < 3
    assert bright < masked


def test_a_sheet_shows_sources_and_heads(trained):
    model, entries, _ = trained
    sheet = draw_sheet(model, entries[:2], class_colors(8))
    assert sheet.size == (8 * 204, 2 * 204)


def test_pictures_of_a_training_show_labels_over_the_image(trained, tmp_path):
    model, entries, _ = trained
    samples = [("minifields_sem_seg_val", {**entries[0], "image_valid": None})]
    no_image = {k: v for k, v in entries[1].items() if k != "image"}
    samples.append(("minifields_sem_seg_val", no_image))
    pictures = PredictionPictures(1, model, samples, tmp_path)
    pictures.trainer = SimpleNamespace(storage=EventStorage())
    files = pictures.draw(1)
    assert [Image.open(file).size for file in files] == [(200, 200), (40, 40)]


def test_a_predictor_takes_the_series_beside_the_image(trained):
    model, entries, _ = trained
    cfg = load_config("configs/MiniFields/m3fusion_quick.yaml", ["MODEL.DEVICE", "cpu"])
    predictor = Predictor.from_model(model, cfg)
    entry = entries[0]
    image = np.ascontiguousarray(entry["image"].numpy().transpose(1, 2, 0)[..., ::-1])
    given = {key: entry[key] for key in ("time_series", "dates", "usable")}
    labels = predictor({"image": image.astype(np.uint8), **given})
    expected = model([entry])[0]["sem_seg"].repeat_interleave(5, 0).repeat_interleave(5, 1)
    assert (labels != expected).float().mean() < 0.005
