"""DemoModel: whatever a model gives, in a form that is small enough to keep."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from deepfuse_d2 import add_deepfuse_config, get_config
from deepfuse_d2.demo import DemoModel, TrainedModel
from deepfuse_d2.errors import ConfigError, ImageError
from deepfuse_d2.inference import Predictor
from deepfuse_d2.structures.mask_crops import crops_of_instances

HEIGHT, WIDTH = 20, 30
IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


class Giving(nn.Module):
    """A model that gives `output` for every image."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, batch):
        return [self.output for _ in batch]


def predicting(output):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    return DemoModel.from_model(Giving(output), cfg, optimize=False)


def two_instances():
    instances = Instances((HEIGHT, WIDTH))
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, :5, :5] = masks[1, 10:, 20:] = True
    instances.pred_masks = masks
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0, 5, 5], [20, 10, 30, 20]]))
    instances.scores, instances.pred_classes = torch.tensor([0.2, 0.8]), torch.tensor([0, 1])
    return instances


def test_pasted_masks_are_kept_as_rle_best_first():
    instances = two_instances()
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
        found = predicting({"sem_seg": output})(IMAGE)
        assert list(found) == ["labels"]
        np.testing.assert_array_equal(found["labels"], expected)


def test_a_model_that_gives_both_has_both():
    labels = torch.ones(HEIGHT, WIDTH, dtype=torch.uint8)
    output = {"sem_seg": labels, "instances": two_instances(), "panoptic_seg": (labels, [])}
    found = predicting(output)(IMAGE)
    assert found["instances"].pred_classes.tolist() == [1, 0]
    np.testing.assert_array_equal(found["labels"], labels.numpy())


def test_a_model_that_gives_neither_is_named():
    with pytest.raises(ConfigError, match=r"this model gives \['proposals'\]"):
        predicting({"proposals": None})(IMAGE)


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(ImageError, match=r"notes\.png is not an image"):
        predicting({"sem_seg": torch.zeros(2, 2)})(tmp_path / "notes.png")


@pytest.mark.parametrize("size", [(64, 128), (40, 100), (150, 170)])
def test_masks_stay_unpasted_and_are_those_of_the_predictor(tiny_opts, size):
    opts = [*tiny_opts, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01"]
    opts += ["TEST.DETECTIONS_PER_IMAGE", "5", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
    cfg = get_config("MiniCity/mask_rcnn_R_18_FPN_quick", opts)
    model = build_model(cfg)
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    ours = DemoModel.from_model(model, cfg, optimize=False)(image)["instances"]
    expected = Predictor.from_model(model, cfg, optimize=False)(image)
    assert len(ours) == len(expected) == 5
    assert tuple(ours.pred_masks.shape[1:]) == (1, 28, 28)
    order = torch.argsort(expected.scores, descending=True, stable=True)
    torch.testing.assert_close(ours.scores, expected.scores[order])
    torch.testing.assert_close(ours.pred_boxes.tensor, expected.pred_boxes.tensor[order])
    crops = crops_of_instances(ours, size, "toy")
    for crop, mask in zip(crops, expected.pred_masks[order].numpy(), strict=True):
        np.testing.assert_array_equal(crop.paste(np.zeros(size, bool)), mask)


def test_a_config_without_a_data_set_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("DATASETS: {TEST: [], TRAIN: []}\n")
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"config.yaml names no data set in DATASETS.TEST"):
        DemoModel.load(TrainedModel("x", tmp_path / "config.yaml", tmp_path / "w.pth"))
