"""detectron2's own scripting export takes our necks, and gives what the model gives at any size."""

import pytest
import torch
from detectron2.export import scripting_with_instances
from detectron2.export.torchscript_patch import freeze_training_mode
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from neck_suite import small_config
from test_meta_architectures import MASK_RCNN, RETINANET, config
from torch import Tensor

from deepfuse_d2.modeling import NECK_REGISTRY

NECKS = sorted(name for name, _ in NECK_REGISTRY)
RCNN_FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": Tensor,
    "pred_boxes": Boxes,
    "scores": Tensor,
    "pred_classes": Tensor,
    "pred_masks": Tensor,
}
DENSE_FIELDS = {"pred_boxes": Boxes, "scores": Tensor, "pred_classes": Tensor}
SIZES = [(64, 96), (70, 45), (128, 160)]


def images(height, width):
    generator = torch.Generator().manual_seed(height)
    return [{"image": 255 * torch.rand(3, height, width, generator=generator)}]


def assert_same(scripted, expected):
    """A scripted structure of instances against detectron2's own."""
    assert len(scripted.scores) == len(expected) > 0
    assert torch.equal(scripted.pred_classes, expected.pred_classes)
    assert (scripted.pred_boxes.tensor - expected.pred_boxes.tensor).abs().max() < 1e-3
    torch.testing.assert_close(scripted.scores, expected.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("neck", NECKS)
@torch.no_grad()
def test_mask_rcnn_on_every_neck_is_scripted(neck, tmp_path):
    torch.manual_seed(1)
    model = build_model(config(neck, MASK_RCNN)).eval()
    expected = [model.inference(images(*size), do_postprocess=False)[0] for size in SIZES]
    torch.jit.save(scripting_with_instances(model, RCNN_FIELDS), str(tmp_path / "model.ts"))
    scripted = torch.jit.load(str(tmp_path / "model.ts"))
    for size, wanted in zip(SIZES, expected, strict=True):
        found = scripted.inference(images(*size), do_postprocess=False)[0]
        assert_same(found, wanted)
        torch.testing.assert_close(found.pred_masks, wanted.pred_masks, rtol=1e-3, atol=1e-4)
    # the model is as it was
    again = model.inference(images(*SIZES[0]), do_postprocess=False)[0]
    assert torch.equal(again.scores, expected[0].scores)


@pytest.mark.parametrize("neck", ["FPN", "DeepFuseFPN"])
@torch.no_grad()
def test_retinanet_is_scripted(neck):
    torch.manual_seed(1)
    model = build_model(config(neck, RETINANET)).eval()
    torch.nn.init.normal_(model.head.cls_score.weight, std=0.5)
    with freeze_training_mode(model):
        scripted = scripting_with_instances(model, DENSE_FIELDS)
    for size in SIZES:
        padded = model.preprocess_image(images(*size))
        features = model.backbone(padded.tensor)
        maps = [features[name] for name in model.head_in_features]
        # the scripted model leaves boxes as they are before they are cut at the image's border
        expected = model.forward_inference(padded, maps, model.head(maps))[0]
        assert_same(scripted(images(*size))[0], expected)


@torch.no_grad()
def test_a_network_of_four_channels_is_scripted():
    cfg = small_config(
        "MODEL.RESNETS.NORM", "GN", *MASK_RCNN, "MODEL.NECK.NAME", "DeepFuseFPN",
        "MODEL.PIXEL_MEAN", [100.0] * 4, "MODEL.PIXEL_STD", [50.0] * 4,
    )  # fmt: skip
    model = build_model(cfg).eval()
    entry = [{"image": 255 * torch.rand(4, 64, 96)}]
    expected = model.inference(entry, do_postprocess=False)[0]
    scripted = scripting_with_instances(model, RCNN_FIELDS)
    assert_same(scripted.inference(entry, do_postprocess=False)[0], expected)
