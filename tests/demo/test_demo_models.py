"""DemoModel: whatever a model gives, in a form that is small enough to keep."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from torch import nn

from deepfuse_d2.demo import DemoModel, TrainedModel
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.evaluation.mask_crops import crops_of_instances

HEIGHT, WIDTH = 20, 30
IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


def predicting(output):
    """A DemoModel of a predictor that gives `output`."""

    class Predictor(SimpleNamespace):
        def __call__(self, image):
            return output

    return DemoModel(Predictor(model=nn.Identity()), Metadata(name="toy"))


def test_pasted_masks_are_kept_as_rle_best_first():
    instances = Instances((HEIGHT, WIDTH))
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, :5, :5] = masks[1, 10:, 20:] = True
    instances.pred_masks = masks
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0, 5, 5], [20, 10, 30, 20]]))
    instances.scores, instances.pred_classes = torch.tensor([0.2, 0.8]), torch.tensor([0, 1])
    found = predicting({"instances": instances})(IMAGE)["instances"]
    assert found.scores.tolist() == pytest.approx([0.8, 0.2])
    assert not found.has("pred_masks")
    crops = list(crops_of_instances(found, (HEIGHT, WIDTH), "toy"))
    assert [(top, left, inside.shape) for top, left, inside in crops] == [
        (10, 20, (10, 10)), (0, 0, (5, 5)),
    ]  # fmt: skip
    assert all(inside.all() for _, _, inside in crops)
    assert instances.has("pred_masks")  # what came in is as it was


def test_logits_become_labels_and_labels_stay():
    logits = torch.zeros(3, HEIGHT, WIDTH)
    logits[2, :, 15:] = 1
    expected = logits.argmax(dim=0).numpy()
    for output in (logits, torch.from_numpy(expected)):
        labels = predicting({"sem_seg": output})(IMAGE)["labels"]
        np.testing.assert_array_equal(labels, expected)


def test_a_model_that_gives_neither_is_named():
    with pytest.raises(ConfigError, match=r"this model gives \['proposals'\]"):
        predicting({"proposals": None})(IMAGE)


def test_a_config_without_a_data_set_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("DATASETS: {TEST: [], TRAIN: []}\n")
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"config.yaml names no data set in DATASETS.TEST"):
        DemoModel.load(TrainedModel("x", tmp_path / "config.yaml", tmp_path / "w.pth"))
