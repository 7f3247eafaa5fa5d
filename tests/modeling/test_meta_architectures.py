"""detectron2's own meta-architectures, as its configs set them up, on every neck of ours."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from neck_suite import small_config

from deepfuse_d2.modeling import NECK_REGISTRY

NECKS = sorted(name for name, _ in NECK_REGISTRY)
SIZE = (64, 96)
CLASSES = 3

# What detectron2's yaml files say (configs/Base-RCNN-FPN.yaml, Base-RetinaNet.yaml,
# Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml, COCO-PanopticSegmentation/Base-Panoptic-FPN.yaml), made
# small.
MASK_RCNN = (
    "MODEL.META_ARCHITECTURE", "GeneralizedRCNN",
    "MODEL.MASK_ON", True,
    "MODEL.NECK.TOP_BLOCK", "maxpool",
    "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST", 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST", 20,
    "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.NUM_CLASSES", CLASSES,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16,
    # random weights find something
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0,
    "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC", 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM", 32,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7,
    "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV", 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM", 32,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14,
    "TEST.DETECTIONS_PER_IMAGE", 5,
    "INPUT.MASK_FORMAT", "bitmask",
)  # fmt: skip
CASCADE = (
    *MASK_RCNN,
    "MODEL.ROI_HEADS.NAME", "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", 20,
)  # fmt: skip
PANOPTIC = (
    *MASK_RCNN,
    "MODEL.META_ARCHITECTURE", "PanopticFPN",
    "MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"],
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32,
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 0.5,
    # the yaml leaves instances with a small score out
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 16,
)  # fmt: skip
RETINANET = (
    "MODEL.META_ARCHITECTURE", "RetinaNet",
    "MODEL.NECK.IN_FEATURES", ["res3", "res4", "res5"],
    "MODEL.NECK.TOP_BLOCK", "p6p7",
    "MODEL.ANCHOR_GENERATOR.SIZES", [[s, s * 1.26, s * 1.59] for s in (16, 32, 64, 128, 256)],
    "MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.RETINANET.NUM_CLASSES", CLASSES,
    "MODEL.RETINANET.NUM_CONVS", 1,
    "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 20,
    "TEST.DETECTIONS_PER_IMAGE", 5,
)  # fmt: skip


def config(neck, overrides):
    # random weights without a norm that works at test time give values without bound
    return small_config("MODEL.RESNETS.NORM", "GN", "MODEL.NECK.NAME", neck, *overrides)


def batch(count=2):
    """Images with two boxes, their masks and a map of classes each; of different sizes."""
    inputs = []
    for i in range(count):
        rows, columns = SIZE[0] - 7 * i, SIZE[1] - 13 * i
        instances = Instances((rows, columns))
        boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 70.0, 52.0]])
        masks = torch.zeros(2, rows, columns, dtype=torch.bool)
        classes = torch.zeros(rows, columns, dtype=torch.long)
        for n, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
            masks[n, y0:y1, x0:x1] = True
            classes[y0:y1, x0:x1] = n + 1
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.tensor([0, CLASSES - 1])
        instances.gt_masks = BitMasks(masks)
        image = torch.randint(0, 256, (3, rows, columns), dtype=torch.uint8)
        inputs.append(
            {
                "image": image,
                "instances": instances,
                "sem_seg": classes,
                "height": 2 * rows,
                "width": 2 * columns,
            }
        )
    return inputs


def train_one_step(model, losses_expected):
    """One step of SGD: the losses by name, all finite, and a change in every part of the model."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with EventStorage():
        losses = model.train()(batch())
    assert set(losses) == set(losses_expected)
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
    sum(losses.values()).backward()
    optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
    parts = {name.split(".")[0] for name in before} - {"backbone"}
    parts |= {"backbone.bottom_up"}
    for part in parts:
        assert any(name.startswith(part) for name in changed), part
    neck = [n for n in before if n.startswith("backbone.") and ".bottom_up." not in n]
    assert neck
    assert any(name in changed for name in neck)


def check_instances(result, masks):
    """Instances in the size asked for, inside the image."""
    instances = result["instances"]
    assert len(instances) > 0
    rows, columns = instances.image_size
    boxes = instances.pred_boxes.tensor
    assert torch.isfinite(boxes).all()
    assert boxes.min() >= 0
    assert boxes[:, [0, 2]].max() <= columns
    assert boxes[:, [1, 3]].max() <= rows
    assert (instances.pred_classes < CLASSES).all()
    if masks:
        assert instances.pred_masks.shape == (len(instances), rows, columns)


def infer(model):
    with torch.no_grad():
        results = model.eval()(batch())
    assert [result["instances"].image_size for result in results] == [(128, 192), (114, 166)]
    return results


RPN_LOSSES = {"loss_rpn_cls", "loss_rpn_loc"}
MASK_RCNN_LOSSES = RPN_LOSSES | {"loss_cls", "loss_box_reg", "loss_mask"}


@pytest.mark.parametrize("neck", NECKS)
def test_mask_rcnn_trains_and_finds_instances_on_every_neck(neck):
    model = build_model(config(neck, MASK_RCNN))
    train_one_step(model, MASK_RCNN_LOSSES)
    for result in infer(model):
        check_instances(result, masks=True)


@pytest.mark.parametrize("neck", NECKS)
def test_cascade_mask_rcnn_trains_and_finds_instances_on_every_neck(neck):
    model = build_model(config(neck, CASCADE))
    stages = {f"loss_{kind}_stage{i}" for kind in ("cls", "box_reg") for i in range(3)}
    train_one_step(model, RPN_LOSSES | stages | {"loss_mask"})
    for result in infer(model):
        check_instances(result, masks=True)


@pytest.mark.parametrize("neck", NECKS)
def test_retinanet_trains_and_finds_boxes_on_every_neck(neck):
    model = build_model(config(neck, RETINANET))
    train_one_step(model, {"loss_cls", "loss_box_reg"})
    for result in infer(model):
        check_instances(result, masks=False)


@pytest.mark.parametrize("neck", NECKS)
def test_panoptic_fpn_trains_and_labels_every_pixel_on_every_neck(neck):
    model = build_model(config(neck, PANOPTIC))
    train_one_step(model, MASK_RCNN_LOSSES | {"loss_sem_seg"})
    for result in infer(model):
        check_instances(result, masks=True)
        size = result["instances"].image_size
        assert result["sem_seg"].shape == (4, *size)
        labels, segments = result["panoptic_seg"]
        assert labels.shape == size
        assert {s["id"] for s in segments} == set(labels.unique().tolist()) - {0}


@pytest.mark.parametrize("neck", NECKS)
def test_fcos_trains_and_finds_boxes_on_every_neck(neck):
    cfg = config(neck, RETINANET)
    backbone = build_backbone(cfg, ShapeSpec(channels=3))
    features = ["p3", "p4", "p5", "p6", "p7"]
    shapes = backbone.output_shape()
    # detectron2 has no yaml for FCOS, only a python config
    model = FCOS(
        backbone=backbone,
        head=FCOSHead(
            input_shape=[shapes[f] for f in features], num_classes=CLASSES, conv_dims=[32]
        ),
        head_in_features=features,
        num_classes=CLASSES,
        test_score_thresh=0.0,
        test_topk_candidates=20,
        max_detections_per_image=5,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
    # distances to the sides are rectified; those of random weights may all be zero
    torch.nn.init.constant_(model.head.bbox_pred.bias, 2.0)
    train_one_step(model, {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"})
    for result in infer(model):
        check_instances(result, masks=False)


def test_the_necks_are_those_the_documentation_names():
    assert NECKS == ["BFP", "BiFPN", "DeepFuseFPN", "FPN", "HRFPN", "NASFPN", "PAFPN"]
