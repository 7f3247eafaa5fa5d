"""A Predictor gives all that a model gives, of every meta-architecture, in every form."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from inference_models import busy_rcnn, images, rcnn_cfg
from pycocotools import mask as coco

from deepfuse_d2.errors import ConfigError
from deepfuse_d2.inference import Predictor

PANOPTIC = (
    "MODEL.META_ARCHITECTURE", "PanopticFPN",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.3,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 16,
)  # fmt: skip
DENSE = (
    "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"],
    "MODEL.RETINANET.NUM_CLASSES", 8,
    "MODEL.RETINANET.PRIOR_PROB", 0.3,
    "MODEL.RETINANET.SCORE_THRESH_TEST", 0.1,
)  # fmt: skip
KEYPOINTS = (
    "MODEL.KEYPOINT_ON", True,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 4,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16],
)  # fmt: skip


def pixels(height, width, seed=0):
    image = images((height, width), seed=seed)[0]["image"]
    return image.permute(1, 2, 0).numpy().astype(np.uint8)


FRAME = pixels(64, 96)


def busy(name):
    """A model that finds something, and its config."""
    if name in ("RetinaNet", "FCOS"):
        cfg = rcnn_cfg("MODEL.META_ARCHITECTURE", name, *DENSE)
        torch.manual_seed(0)
        model = build_model(cfg).eval()
        torch.nn.init.normal_(model.head.cls_score.weight, std=0.5)
        if name == "FCOS":
            torch.nn.init.constant_(model.head.bbox_pred.bias, 2.0)
        return model, cfg
    if name == "ProposalNetwork":
        cfg = rcnn_cfg("MODEL.META_ARCHITECTURE", name)
        torch.manual_seed(0)
        return build_model(cfg).eval(), cfg
    opts = {"PanopticFPN": PANOPTIC, "keypoints": KEYPOINTS}[name]
    model = busy_rcnn(*opts)
    return model, rcnn_cfg(*opts)


def direct(model, frame):
    """What the model itself gives for an image that is not resized."""
    height, width = frame.shape[:2]
    entry = {"image": torch.from_numpy(frame.transpose(2, 0, 1).copy())}
    with torch.no_grad():
        return model([{**entry, "height": height, "width": width}])[0]


def assert_boxes(found, expected):
    assert len(found) == len(expected) > 5
    assert found.image_size == expected.image_size
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert (found.pred_boxes.tensor - expected.pred_boxes.tensor).abs().max() < 1e-3
    assert (found.scores - expected.scores).abs().max() < 1e-4


@pytest.fixture
def supervision(monkeypatch):
    """The one class of the package that is used, where the package itself may be missing."""
    package = SimpleNamespace(Detections=lambda **fields: SimpleNamespace(**fields))
    monkeypatch.setitem(sys.modules, "supervision", package)


@pytest.mark.parametrize("name", ["RetinaNet", "FCOS"])
def test_dense_detectors_find_boxes_also_in_tiles(name):
    model, cfg = busy(name)
    expected = direct(model, FRAME)["instances"]
    predictor = Predictor.from_model(model, cfg)
    assert_boxes(predictor(FRAME), expected)
    rles = predictor(FRAME, output="rle")
    assert len(rles) == len(expected)
    assert "segmentation" not in rles[0]
    tiled = Predictor.from_model(model, cfg, tile=(64, 96), tile_overlap=0)
    both = tiled(np.concatenate([FRAME, FRAME], axis=1))
    assert both.image_size == (64, 192)
    assert (both.pred_boxes.tensor[:, 2] <= 96).sum() == (both.pred_boxes.tensor[:, 0] >= 96).sum()


def test_a_proposal_network_gives_its_proposals(supervision):
    model, cfg = busy("ProposalNetwork")
    expected = direct(model, FRAME)["proposals"]
    predictor = Predictor.from_model(model, cfg)
    found = predictor(FRAME)
    assert len(found) == len(expected) > 5
    difference = found.proposal_boxes.tensor - expected.proposal_boxes.tensor
    assert difference.abs().max() < 1e-2
    rles = predictor(FRAME, output="rle")
    assert rles[0]["score"] == pytest.approx(found.objectness_logits[0].sigmoid().item())
    detections = predictor(FRAME, output="supervision")
    assert detections.xyxy.shape == (len(found), 4)
    assert "class_name" not in detections.data
    with pytest.raises(ConfigError, match=r"Tiles do not fit a ProposalNetwork.* proposals"):
        Predictor.from_model(model, cfg, tile=(64, 64), tile_overlap=8)
    with pytest.raises(ConfigError, match="augmentation does not know ProposalNetwork"):
        Predictor.from_model(model, cfg, augment=True)


@pytest.fixture
def named():
    """A registered data set whose ids are not 0, 1, 2, ..."""
    metadata = MetadataCatalog.get("predict_models")
    metadata.set(
        thing_dataset_id_to_contiguous_id={10 * i: i for i in range(8)},
        stuff_dataset_id_to_contiguous_id={100 + i: i for i in range(5)},
        thing_classes=list("abcdefgh"),
        stuff_classes=list("vwxyz"),
    )
    yield "predict_models"
    MetadataCatalog.remove("predict_models")


@pytest.mark.parametrize("optimize", [True, False])
def test_panoptic_fpn_gives_instances_labels_and_segments(optimize, named, supervision):
    model, cfg = busy("PanopticFPN")
    cfg.DATASETS.TEST = (named,)
    expected = direct(model, FRAME)
    predictor = Predictor.from_model(model, cfg, optimize=optimize)
    found = predictor(FRAME)
    assert set(found) == {"instances", "sem_seg", "panoptic_seg"}
    assert_boxes(found["instances"], expected["instances"])
    assert found["sem_seg"].dtype == torch.uint8
    same = found["sem_seg"] == expected["sem_seg"].argmax(dim=0)
    assert same.float().mean() > 0.99
    labels, segments = found["panoptic_seg"]
    assert labels.shape == (64, 96)
    assert {True, False} <= {bool(x["isthing"]) for x in segments}
    assert set(labels.unique().tolist()) - {0} == {x["id"] for x in segments}

    rles = predictor(FRAME, output="rle")
    assert len(rles["instances"]) == len(expected["instances"])
    assert len(rles["panoptic_seg"]) == len(segments)
    for rle, segment in zip(rles["panoptic_seg"], segments, strict=True):
        mask = coco.decode(rle["segmentation"]).astype(bool)
        assert np.array_equal(mask, (labels == segment["id"]).numpy())
        label = segment["category_id"]
        assert rle["category_id"] == (10 * label if segment["isthing"] else 100 + label)
    detections = predictor(FRAME, output="supervision")
    assert detections["panoptic_seg"].mask.shape == (len(segments), 64, 96)
    assert detections["instances"].data["class_name"][0] in "abcdefgh"


def test_panoptic_fpn_is_augmented_in_all_its_parts():
    model, cfg = busy("PanopticFPN")
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP = (64,), 128, False
    plain = Predictor.from_model(model, cfg)(FRAME)
    alone = Predictor.from_model(model, cfg, augment=True)(FRAME)
    # one view as it is: its labels are those without augmentation
    assert (alone["sem_seg"] == plain["sem_seg"]).float().mean() > 0.99
    cfg.TEST.AUG.FLIP = True
    predictor = Predictor.from_model(model, cfg, augment=True)
    found = predictor(FRAME)
    assert set(found) == {"instances", "sem_seg", "panoptic_seg"}
    assert len(found["instances"]) > 5
    # with its mirrored view, a mirrored image has the mirrored labels
    mirrored = predictor(np.ascontiguousarray(FRAME[:, ::-1]))
    assert (mirrored["sem_seg"].flip(-1) == found["sem_seg"]).float().mean() > 0.99


def test_keypoints_are_given_in_every_form_and_in_tiles(supervision):
    model, cfg = busy("keypoints")
    expected = direct(model, FRAME)["instances"]
    predictor = Predictor.from_model(model, cfg)
    found = predictor(FRAME)
    assert_boxes(found, expected)
    assert found.pred_keypoints.shape == (len(found), 4, 3)
    first = predictor(FRAME, output="rle")[0]
    assert len(first["keypoints"]) == 12
    x, y, score = first["keypoints"][:3]
    assert [x + 0.5, y + 0.5, score] == pytest.approx(found.pred_keypoints[0, 0].tolist(), 1e-3)
    detections = predictor(FRAME, output="supervision")
    assert detections.data["keypoints"].shape == (len(found), 4, 3)

    tiled = Predictor.from_model(model, cfg, tile=(64, 96), tile_overlap=0)
    both = tiled(np.concatenate([FRAME, FRAME], axis=1))
    assert both.has("pred_keypoints")
    right = both[both.pred_boxes.tensor[:, 0] >= 96]
    left = both[both.pred_boxes.tensor[:, 2] <= 96]
    assert len(left) == len(right) > 2
    order = [x.scores.argsort(descending=True, stable=True)[0] for x in (left, right)]
    moved = right.pred_keypoints[order[1]] - torch.tensor([96.0, 0.0, 0.0])
    torch.testing.assert_close(moved, left.pred_keypoints[order[0]], rtol=0, atol=0.01)
    with pytest.raises(ConfigError, match=r"not for models with MODEL\.KEYPOINT_ON"):
        Predictor.from_model(model, cfg, augment=True)


def test_a_data_set_that_is_not_registered_here_is_no_error(tmp_path):
    from detectron2.checkpoint import DetectionCheckpointer

    model, cfg = busy("RetinaNet")
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("only_where_it_was_trained",)
    found = Predictor(cfg, tmp_path / "model.pth")(FRAME)
    assert len(found) > 5
    assert "only_where_it_was_trained" not in MetadataCatalog
